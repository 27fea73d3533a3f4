"""The rows of the failures' table that `conflict_reproductions` shows as diseases, with their cures: no error, nothing
left. The others are in `test_sqlalchemy_pool`, `test_guard`, `test_guard_drivers` and `test_fork`."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncEngine

import loopwatch
from tests.postgres import eventually_sessions, plain


async def select_one(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


@pytest.mark.parametrize("pre_ping", [False, True])
def test_an_engine_used_by_a_loop_that_lives_works_on_another(database_url: str, *, pre_ping: bool) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_pre_ping=pre_ping)
    with asyncio.Runner() as owner:
        assert owner.run(select_one(engine)) == 1
        assert [asyncio.run(select_one(engine)) for _ in range(3)] == [1, 1, 1]
        assert owner.run(select_one(engine)) == 1
        assert eventually_sessions(database_url, 0, "state like 'idle in transaction%%'") == 0
    assert eventually_sessions(database_url, 0) == 0


def test_a_pool_that_one_loop_has_exhausted_is_not_exhausted_for_another(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)

    async def exhaust() -> Any:
        held = await engine.connect()
        with pytest.raises(exc.TimeoutError):  # a waiter of this loop, which binds a plain pool's queue to it
            await engine.connect()
        return held

    with asyncio.Runner() as owner:
        held = owner.run(exhaust())
        assert asyncio.run(select_one(engine)) == 1
        owner.run(held.close())
    assert eventually_sessions(database_url, 0) == 0


@pytest.mark.parametrize("kind", ["pool", "connection"])
def test_asyncpg_alone_through_per_loop(database_url: str, kind: str) -> None:
    async def make() -> Any:
        if kind == "pool":
            return await asyncpg.create_pool(plain(database_url), min_size=1, max_size=1)
        return await asyncpg.connect(plain(database_url))

    kept = loopwatch.PerLoop(make, dispose=lambda value: value.close())

    async def use() -> int:
        return int(await (await kept.aget()).fetchval("SELECT 1"))

    with asyncio.Runner() as owner:
        for _ in range(10):
            assert asyncio.run(use()) == owner.run(use()) == 1
    assert eventually_sessions(database_url, 0) == 0


@pytest.mark.filterwarnings("ignore")  # what a bare close leaves behind warns, rightly; it must not stay behind
def test_a_loop_that_is_just_closed_leaves_no_thread_of_aiosqlite(tmp_path: Path) -> None:
    engine = loopwatch.create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.db")
    before = threading.active_count()
    for _ in range(5):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(select_one(engine)) == 1
        loop.close()
    assert asyncio.run(select_one(engine)) == 1
    # Fewer, where a thread of an earlier test has ended meanwhile.
    waited, deadline = threading.Event(), time.monotonic() + 60
    while threading.active_count() > before:
        assert time.monotonic() < deadline, threading.enumerate()
        waited.wait(0.02)
    gc.collect()
