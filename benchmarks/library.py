"""What the library costs in the application's process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter

import prometheus_client
from sqlalchemy import NullPool, text
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.util import greenlet_spawn

import loopwatch
from benchmarks.harness import Comparison, Target, compare
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.channel import own_snapshot
from loopwatch.telemetry.stats import STATS
from loopwatch.telemetry.wire import encode_child

__all__ = ["comparisons"]

OURS = "loopwatch"


def comparisons(database_url: str) -> Iterator[Comparison]:
    """Each measured when it is asked for."""
    yield _pool_overhead()
    yield _real_cycle(database_url)
    yield _query_under_asyncio_run(database_url)
    yield _query_on_one_loop(database_url)
    yield _run_a_coroutine()
    yield _count()
    yield _snapshot()


class _Connection:
    """A driver's connection that does nothing, so that only the pool is measured."""

    def rollback(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Dialect(DefaultDialect):
    is_async = True
    driver = name = "nothing"
    supports_statement_cache = True


def _pool_overhead() -> Comparison:
    def way(pool: Pool) -> Callable[[], float]:
        def cycles() -> float:
            start = perf_counter()
            for _ in range(10_000):
                pool.connect().close()
            return (perf_counter() - start) / 10_000

        return lambda: asyncio.run(greenlet_spawn(cycles))

    plain, ours = (
        way(kind(lambda: _Connection(), dialect=_Dialect()))  # type: ignore[arg-type]
        for kind in (AsyncAdaptedQueuePool, loopwatch.LoopAwarePool)
    )
    found = compare(
        "A pool's connect() and close(), no database", {"SQLAlchemy's pool": plain, OURS: ours}, calls=1, rounds=15
    )
    more = (found.medians[OURS] - found.medians["SQLAlchemy's pool"]) * 1e6
    return replace(found, targets=(Target("guard and figures add to a checkout", more, 1.5, "us"),))


def _real_cycle(url: str) -> Comparison:
    plain, ours = create_async_engine(url), loopwatch.create_async_engine(url)

    async def cycles(engine: AsyncEngine) -> float:
        start = perf_counter()
        for _ in range(100):
            await _query(engine)
        return (perf_counter() - start) / 100

    with asyncio.Runner() as runner:
        try:
            found = compare(
                "Connect, SELECT 1, close on a real server",
                {"SQLAlchemy's pool": lambda: runner.run(cycles(plain)), OURS: lambda: runner.run(cycles(ours))},
                calls=1,
                rounds=75,
            )
        finally:
            runner.run(plain.dispose())
    target = Target("connect, SELECT 1, close, to SQLAlchemy's pool", found.ratios[OURS], 1.01, "x")
    return replace(found, targets=(target,))


async def _query(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def _query_under_asyncio_run(url: str) -> Comparison:
    null = create_async_engine(url, poolclass=NullPool)
    ours = loopwatch.create_async_engine(url)
    found = compare(
        "asyncio.run() with one query",
        {
            "NullPool": lambda: asyncio.run(_query(null)),
            "an engine a run": lambda: asyncio.run(_engine_a_run(url)),
            OURS: lambda: asyncio.run(_query(ours)),
        },
        calls=10,
        rounds=31,
    )
    return replace(found, targets=(Target("asyncio.run() with one query, to NullPool", found.ratios[OURS], 1.0, "x"),))


async def _engine_a_run(url: str) -> None:
    engine = create_async_engine(url)
    await _query(engine)
    await engine.dispose()


def _query_on_one_loop(url: str) -> Comparison:
    plain = create_async_engine(url)
    null = create_async_engine(url, poolclass=NullPool)
    ours = loopwatch.create_async_engine(url)
    with asyncio.Runner() as runner:
        try:
            found = compare(
                "A query on a loop that lives on",
                {
                    "plain pool": lambda: runner.run(_query(plain)),
                    "NullPool": lambda: runner.run(_query(null)),
                    "an engine a run": lambda: runner.run(_engine_a_run(url)),
                    OURS: lambda: runner.run(_query(ours)),
                },
                calls=40,
                rounds=15,
            )
        finally:
            runner.run(plain.dispose())
    return replace(
        found, targets=(Target("a query on a loop that lives on, to a plain pool", found.ratios[OURS], 1.2, "x"),)
    )


async def _nothing() -> None:
    return None


def _run_a_coroutine() -> Comparison:
    loop, elsewhere = asyncio.new_event_loop(), asyncio.new_event_loop()
    thread = threading.Thread(target=elsewhere.run_forever)
    thread.start()
    try:
        found = compare(
            "Run a coroutine that does nothing, from a task",
            {
                "asyncio.run": lambda: asyncio.run(_nothing()),
                "loop.run_until_complete": lambda: loop.run_until_complete(_nothing()),
                "asyncio.run_coroutine_threadsafe": lambda: asyncio.run_coroutine_threadsafe(
                    _nothing(), elsewhere
                ).result(),
                "loopwatch.run_async": lambda: loopwatch.run_async(_nothing()),
            },
            calls=1_000,
        )
    finally:
        elsewhere.call_soon_threadsafe(elsewhere.stop)
        thread.join()
        loop.close()
        elsewhere.close()
    target = Target("run_async of a coroutine", found.medians["loopwatch.run_async"] * 1e6, 25, "us")
    return replace(found, targets=(target,))


def _count() -> Comparison:
    labels = ("logs", "main")
    registry = prometheus_client.CollectorRegistry()
    counter = prometheus_client.Counter("timeouts", "Timeouts.", ["queue_name", "pool"], registry=registry)
    waits = prometheus_client.Histogram("wait", "Waits.", ["queue_name", "pool"], registry=registry)
    kept, plain = counter.labels(*labels), {labels: 0}

    def add() -> None:
        plain[labels] += 1

    found = compare(
        "Count a fact",
        {
            "prometheus_client: labels().inc()": lambda: counter.labels(*labels).inc(),
            "prometheus_client: a kept child": kept.inc,
            "prometheus_client: labels().observe()": lambda: waits.labels(*labels).observe(0.01),
            "dict[key] += 1": add,
            "STATS.count": lambda: STATS.count(catalogue.POOL_TIMEOUTS, labels),
            "STATS.observe": lambda: STATS.observe(catalogue.POOL_WAIT, labels, 0.01),
        },
        calls=20_000,
    )
    return replace(found, targets=(Target("count a fact", found.medians["STATS.count"] * 1e6, 0.3, "us"),))


def _snapshot() -> Comparison:
    """Of a worker with 3 queues and 2 pools."""
    for queue in ("logs", "content", "roadmap_workflow"):
        for pool in ("main", "replica"):
            STATS.observe(catalogue.POOL_WAIT, (queue, pool), 0.01)
            STATS.observe(catalogue.POOL_USE, (queue, pool), 0.01)
            STATS.count(catalogue.TASK_POOL_USES, (queue, "app.tasks.store", pool))
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    size = sum(map(len, encode_child(own_snapshot(0, 1))))

    def nothing_but_send() -> None:
        one.send(b"x" * size)
        other.recv(65536)

    def build() -> None:
        encode_child(own_snapshot(0, 1))

    def snapshot() -> None:
        for datagram in encode_child(own_snapshot(0, 1)):
            one.send(datagram)
            other.recv(65536)

    with one, other:
        found = compare(
            "A snapshot from a pool's child to its parent, 3 queues and 2 pools",
            {"send and receive that many bytes": nothing_but_send, "build": build, "build, send and receive": snapshot},
            calls=500,
        )
    taken = found.medians["build, send and receive"] * 1e6
    return replace(
        found,
        targets=(
            Target("a snapshot: build, send and receive", taken, 100, "us"),
            Target("a snapshot's size", size, 4_096, "bytes"),
        ),
    )
