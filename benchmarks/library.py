"""What the library costs in the application's process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from time import perf_counter

from sqlalchemy import NullPool, text
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.util import greenlet_spawn

import loopwatch
from benchmarks.harness import Comparison, compare
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.channel import own_snapshot
from loopwatch.telemetry.stats import STATS
from loopwatch.telemetry.wire import encode_child

__all__ = ["comparisons"]


def comparisons(database_url: str) -> Iterator[Comparison]:
    """Each measured when it is asked for."""
    yield _pool_overhead()
    yield _run_a_coroutine()
    yield _query_under_asyncio_run(database_url)
    yield _query_on_one_loop(database_url)
    yield _telemetry()


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

    return compare(
        "pool.connect() + close(), no database",
        {
            kind.__name__: way(kind(lambda: _Connection(), dialect=_Dialect()))  # type: ignore[arg-type]
            for kind in (AsyncAdaptedQueuePool, loopwatch.LoopAwarePool)
        },
        calls=1,
    )


async def _nothing() -> None:
    return None


def _run_a_coroutine() -> Comparison:
    loop = asyncio.new_event_loop()
    try:
        return compare(
            "run a coroutine that does nothing, from a task",
            {
                "asyncio.run": lambda: asyncio.run(_nothing()),
                "run_until_complete": lambda: loop.run_until_complete(_nothing()),
                "loopwatch.run_async": lambda: loopwatch.run_async(_nothing()),
            },
            calls=1_000,
        )
    finally:
        loop.close()


async def _query(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def _query_under_asyncio_run(url: str) -> Comparison:
    async def engine_per_run() -> None:
        engine = create_async_engine(url)
        await _query(engine)
        await engine.dispose()

    null = create_async_engine(url, poolclass=NullPool)
    ours = loopwatch.create_async_engine(url)
    return compare(
        "asyncio.run() with one query",
        {
            "NullPool": lambda: asyncio.run(_query(null)),
            "an engine a run": lambda: asyncio.run(engine_per_run()),
            "loopwatch": lambda: asyncio.run(_query(ours)),
        },
        calls=20,
    )


def _query_on_one_loop(url: str) -> Comparison:
    plain = create_async_engine(url)
    null = create_async_engine(url, poolclass=NullPool)
    ours = loopwatch.create_async_engine(url)
    with asyncio.Runner() as runner:
        try:
            return compare(
                "a query on a loop that lives on",
                {
                    "plain pool": lambda: runner.run(_query(plain)),
                    "NullPool": lambda: runner.run(_query(null)),
                    "loopwatch": lambda: runner.run(_query(ours)),
                },
                calls=100,
            )
        finally:
            runner.run(plain.dispose())


def _telemetry() -> Comparison:
    labels = ("logs", "main")
    for queue in ("logs", "content", "roadmap_workflow"):
        for pool in ("main", "replica"):
            STATS.observe(catalogue.POOL_WAIT, (queue, pool), 0.01)
            STATS.observe(catalogue.POOL_USE, (queue, pool), 0.01)
            STATS.count(catalogue.TASK_POOL_USES, (queue, "app.tasks.store", pool))
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    counter = {labels: 0}

    def plain() -> None:
        counter[labels] += 1

    def snapshot() -> None:
        for datagram in encode_child(own_snapshot(0, 1)):
            one.send(datagram)
            other.recv(65536)

    with one, other:
        return compare(
            "count a fact; build, send and receive a snapshot",
            {
                "dict[key] += 1": plain,
                "STATS.count": lambda: STATS.count(catalogue.POOL_TIMEOUTS, labels),
                "a snapshot": snapshot,
            },
            calls=2_000,
        )
