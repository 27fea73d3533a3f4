"""Every family that a process reports is really produced: one process drives each to a value above 0, on a real
PostgreSQL, and both the node's event and the direct scrape show it under the catalogue's name."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy.exc
from celery import Celery
from prometheus_client import CollectorRegistry
from sqlalchemy import text

import loopwatch
from loopwatch.celery.instrument import _instruments
from loopwatch.conflicts import count_once
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.channel import Channel
from loopwatch.telemetry.prometheus import Collector
from loopwatch.telemetry.reporter import Reporter
from loopwatch.telemetry.wire import NodeInfo

ELSEWHERE = {
    *("loop_lag_seconds", "loop_lag_max_seconds", "loop_stalls_total"),
    *("loops_unplanned_total", "database_connections_limit"),
}
"""Families with tests of their own that drive them: a loop that lags, and a connection budget."""
FAMILIES = {metric.wire_name for metric in catalogue.METRICS if metric.origin == "process"} - ELSEWHERE


class _Nowhere:
    def publish(self, type: str, fields: dict[str, Any]) -> None:
        """Nothing: the test reads the snapshots itself."""

    def close(self) -> None:
        """Nothing."""


class _Seen:
    """The families that had a value above 0 in an event, and on a page."""

    def __init__(self) -> None:
        self._reporter = Reporter(_Nowhere(), interval=5, info=lambda: NodeInfo(kind="process"))
        self._registry = CollectorRegistry()
        self._registry.register(Collector(hostname="here"))
        self.in_event: set[str] = set()
        self.on_page: set[str] = set()

    def look(self) -> None:
        fields = self._reporter.snapshot().to_fields()
        for table in (fields["counters"], *fields["gauges"].values()):
            for family, rows in table.items():
                if any(any(value) if isinstance(value, list) else value for _, value in rows):
                    self.in_event.add(family)
        for family in self._registry.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            if any(sample.value for sample in family.samples):
                self.on_page.add(name.removeprefix(catalogue.PREFIX))


async def _use(engine: Any, seen: _Seen) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        with pytest.raises(sqlalchemy.exc.TimeoutError):  # the pool's only connection is held: a wait, a timeout
            async with engine.connect():
                pass
        waiting = asyncio.create_task(_query(engine))
        await asyncio.sleep(0)
        wait = asyncio.get_running_loop().time() + 0.1  # the leak's threshold
        while asyncio.get_running_loop().time() < wait:
            await asyncio.sleep(0.02)
            seen.look()
        await connection.invalidate()
    with suppress(sqlalchemy.exc.TimeoutError):  # on a machine under load
        await waiting
    async with loopwatch.tolerated("notify"):
        raise ValueError("no matter")


async def _query(engine: Any) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def _orphan(engine: Any, seen: _Seen) -> None:
    """A loop that is closed under its pool."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_query(engine))
    loop.close()
    seen.look()


def _conflict() -> None:
    try:
        raise RuntimeError("Task <Task> got Future <Future pending> attached to a different loop")
    except RuntimeError as error:
        count_once(error, source="exception")


@pytest.fixture
def app() -> Iterator[Celery[Any]]:
    with Celery("every", broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        loopwatch.instrument(app)
        yield app
        _instruments.pop(app)


@pytest.mark.filterwarnings("ignore")  # what a bare close leaves behind warns, rightly
def test_every_family_of_a_process_is_driven_above_0_and_shown(app: Celery[Any], database_url: str) -> None:
    engine = loopwatch.create_async_engine(
        database_url, name="every", pool_size=1, max_overflow=0, pool_timeout=0.5, leak_threshold=0.05
    )
    seen = _Seen()

    def drop() -> None:
        channel = Channel()
        channel._writer.send(b"nonsense")
        channel.tables()
        channel.close()

    @app.task(name="drive")
    def drive() -> None:
        asyncio.run(_use(engine, seen))
        _orphan(engine, seen)
        _conflict()
        drop()
        seen.look()

    drive.apply().get()
    asyncio.run(_query(engine))  # sweeps what the closed loop left
    seen.look()
    gc.collect()
    assert FAMILIES - seen.in_event == set()
    assert FAMILIES - seen.on_page == set()
