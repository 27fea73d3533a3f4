"""A pool that knows the budget it was made with: loops beyond the plan are warned of and counted, its limit is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.asyncio import create_async_engine as sqlalchemy_engine
from sqlalchemy.pool import NullPool

import loopwatch
from loopwatch.adapters import budgeted
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS

PLAN = loopwatch.budget(200, processes={"api": 4, "worker": 14}, weights={"api": 2})


@pytest.fixture(autouse=True)
def warn_again() -> None:
    budgeted._warned.clear()


@pytest.fixture(params=["create_async_engine", "poolclass"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncEngine:
    url, options = f"sqlite+aiosqlite:///{tmp_path}/{request.param}", PLAN.pool_options("api")
    if request.param == "poolclass":
        return sqlalchemy_engine(url, poolclass=loopwatch.LoopAwarePool, **options)
    return loopwatch.create_async_engine(url, **options)


@pytest.fixture
def loops() -> Iterator[list[asyncio.Runner]]:
    runners = [asyncio.Runner() for _ in range(3)]
    yield runners
    for runner in runners:
        runner.close()


async def query(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


def test_more_loops_than_planned_are_counted_and_warned_of_once(
    engine: AsyncEngine, loops: list[asyncio.Runner], caplog: pytest.LogCaptureFixture
) -> None:
    STATS.reset()
    for runner in loops:
        runner.run(query(engine))
    pool = engine.pool
    assert isinstance(pool, loopwatch.LoopAwarePool)
    assert pool._pool.maxsize == PLAN.share("api").pool_size
    assert STATS.value(catalogue.LOOPS_UNPLANNED, (pool.labels.pool,)) == 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 event loops of this process hold a pool at once, and the budget plans 1" in message
    assert "180 connections" in message
    assert "loopwatch.budget(200, ..., loops_per_process=2)" in message


def test_loops_one_after_the_other_are_the_plan(engine: AsyncEngine, caplog: pytest.LogCaptureFixture) -> None:
    STATS.reset()
    for _ in range(3):
        asyncio.run(query(engine))
    rows = STATS.counters()[catalogue.LOOPS_UNPLANNED.wire_name]
    assert list(rows.values()) == [0]  # born at 0: an alert on its increase must see the first
    assert caplog.records == []


def test_the_limit_is_told_once_the_database_is_known(engine: AsyncEngine) -> None:
    asyncio.run(query(engine))
    pool = engine.pool
    assert isinstance(pool, loopwatch.LoopAwarePool)
    assert STATS.gauges()[catalogue.DATABASE_CONNECTIONS_LIMIT.wire_name][(pool.labels.database,)] == 200


def test_a_pool_that_is_not_ours_has_no_use_for_a_plan(tmp_path: Path) -> None:
    engine = loopwatch.create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db", poolclass=NullPool, budget=PLAN)
    asyncio.run(query(engine))
    assert type(engine.pool) is NullPool
