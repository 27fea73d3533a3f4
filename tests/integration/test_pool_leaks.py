"""A connection that is held too long is found, once, with the place where it was taken."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.postgres import eventually_sessions, plain


async def forget_a_connection(engine: AsyncEngine, seconds: float, *, read_gauges: int) -> None:
    current_task.set(TaskContext("logs", "app.forgetful", "42"))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        await asyncio.sleep(seconds)
        for _ in range(read_gauges):
            STATS.gauges()


def leaks(queue: str, pool: str) -> float | None:
    value = STATS.counters().get("pool_leaks_total", {}).get((queue, pool))
    assert not isinstance(value, list)
    return value


@pytest.mark.parametrize("read_gauges", [0, 3])
def test_a_leak_is_logged_once_with_stack_and_task(
    database_url: str, caplog: pytest.LogCaptureFixture, read_gauges: int
) -> None:
    pool = f"forgotten_{read_gauges}"
    engine = loopwatch.create_async_engine(database_url, name=pool, leak_threshold=0.05)
    with caplog.at_level(logging.WARNING, "loopwatch"):
        asyncio.run(forget_a_connection(engine, 0.06, read_gauges=read_gauges))
    assert leaks("logs", pool) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.search(rf"of the pool {pool} has been held for \d+\.\d", message)
    assert "leak_threshold is 0.05 s) by the task app.forgetful[42] of the queue logs" in message
    assert "in forget_a_connection\n    async with engine.connect() as connection:" in message
    assert "site-packages/sqlalchemy" not in message
    assert eventually_sessions(database_url, 0) == 0


def test_what_comes_back_in_time_is_no_leak_and_the_counter_is_born_at_0(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = loopwatch.create_async_engine(database_url, name="prompt", leak_threshold=60)
    asyncio.run(forget_a_connection(engine, 0, read_gauges=1))
    assert leaks("logs", "prompt") == 0
    assert not caplog.records


def test_a_second_checkout_of_the_same_connection_is_a_leak_of_its_own(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="twice", leak_threshold=0.02, pool_size=1)

    async def run() -> None:
        for _ in range(2):
            await forget_a_connection(engine, 0.03, read_gauges=1)

    asyncio.run(run())
    assert leaks("logs", "twice") == 2


def test_as_a_poolclass_and_outside_any_task(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_async_engine(database_url, poolclass=loopwatch.LoopAwarePool, name="dictated", leak_threshold=0.02)

    async def run() -> None:
        async with engine.connect():
            await asyncio.sleep(0.03)

    asyncio.run(run())
    assert leaks("", "dictated") == 1
    assert "by the asyncio task Task-" in caplog.text


def test_an_engine_of_somebody_else_async_or_not(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    theirs = loopwatch.observe(create_async_engine(database_url), name="their_async", leak_threshold=0.02)
    blocking = create_engine(plain(database_url).replace("postgresql:", "postgresql+psycopg:"))
    loopwatch.observe(blocking, name="their_sync", leak_threshold=0.001)

    async def run() -> None:
        await forget_a_connection(theirs, 0.03, read_gauges=1)
        await theirs.dispose()

    asyncio.run(run())
    with blocking.connect() as connection:
        connection.execute(text("SELECT pg_sleep(0.01)"))
    blocking.dispose()
    assert leaks("logs", "their_async") == leaks("", "their_sync") == 1
    assert "by no task" in caplog.text


def test_without_a_threshold_nobody_looks(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="unwatched")
    asyncio.run(forget_a_connection(engine, 0, read_gauges=1))
    assert leaks("logs", "unwatched") is None
    assert STATS.value(catalogue.POOL_USE, ("logs", "unwatched")) == 1


@pytest.mark.parametrize("threshold", [0, -1, float("nan")])
def test_a_threshold_that_cannot_work_is_refused(threshold: float) -> None:
    with pytest.raises(loopwatch.ConfigurationError, match="leak_threshold"):
        loopwatch.create_async_engine("postgresql+asyncpg://localhost/app", leak_threshold=threshold)
    with pytest.raises(loopwatch.ConfigurationError, match="leak_threshold"):
        loopwatch.observe(create_engine("sqlite://"), leak_threshold=threshold)
