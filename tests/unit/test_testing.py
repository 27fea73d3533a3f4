"""`loopwatch.testing`: what leaks fails, what does not passes."""

from __future__ import annotations

import asyncio
import doctest
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.asyncio import create_async_engine as plain_engine

import loopwatch.testing
from loopwatch import LoopConflictError, PerLoop, create_async_engine
from loopwatch.conflicts import count_once
from loopwatch.testing import LeakCheck, LeakError, assert_no_leaks


def use_and_close_badly(things: PerLoop[list[int]]) -> None:
    async def use() -> None:
        things.get()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()


def conflict() -> None:
    count_once(LoopConflictError("another loop's", resource="redis", kind="cross_loop"), source="guard")


def test_the_examples_run() -> None:
    # Their own things must not be ended by the garbage collector between two lines.
    assert doctest.testmod(loopwatch.testing, optionflags=doctest.ELLIPSIS).failed == 0


def test_what_is_ended_or_still_in_use_is_no_leak(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db", name="clean")

    async def use() -> None:
        with assert_no_leaks():
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    with assert_no_leaks():
        asyncio.run(use())


async def test_a_connection_left_checked_out_is_named(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db", name="kept")
    with pytest.raises(LeakError, match="1 connection of 'kept' still checked out") as caught, assert_no_leaks():
        connection = await engine.connect()
    assert len(caught.value.problems) == 1
    check = LeakCheck()
    await connection.close()
    assert check.problems() == []
    await engine.dispose()


@pytest.mark.parametrize("make", [create_async_engine, plain_engine])
async def test_a_connection_that_only_the_collector_gives_back_is_found(
    make: Callable[[str], AsyncEngine], tmp_path: Path
) -> None:
    engine = make(f"sqlite+aiosqlite:///{tmp_path}/db")
    check = LeakCheck()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await engine.connect()
    assert [problem.partition(",")[0] for problem in check.problems()] == ["1 connection never given back"]
    await engine.dispose()
    async with asyncio.timeout(60):
        # aiosqlite's thread for the lost connection: its last word comes to this loop.
        while any("_connection_worker_thread" in thread.name for thread in threading.enumerate()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_value_on_a_closed_loop_is_found_once_whether_it_was_swept_or_not() -> None:
    things: PerLoop[list[int]] = PerLoop(list, name="left")
    with pytest.raises(LeakError, match="1 value of 'left' on an event loop that was closed"), assert_no_leaks():
        use_and_close_badly(things)
    check = LeakCheck()
    loopwatch.per_loop.sweep()
    assert check.problems() == []  # what an earlier block left
    use_and_close_badly(things)
    loopwatch.per_loop.sweep()
    assert len(check.problems()) == 1


def test_a_conflict_is_found_though_it_was_caught() -> None:
    with pytest.raises(LeakError, match=r"1 loop conflict: redis, cross_loop \(seen by: guard\)"), assert_no_leaks():
        conflict()


def test_the_block_s_own_error_comes_first() -> None:
    def fail() -> None:
        conflict()
        _ = 1 / 0

    with pytest.raises(ZeroDivisionError) as caught, assert_no_leaks():
        fail()
    assert "1 loop conflict" in caught.value.__notes__[0]


def test_the_error_survives_another_process() -> None:
    error = pickle.loads(pickle.dumps(LeakError(["one"])))
    assert error.problems == ["one"]
    assert isinstance(error, AssertionError)
