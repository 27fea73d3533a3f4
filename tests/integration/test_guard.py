"""A connection or session that is handed to another loop is refused, clearly, before the socket is touched."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.postgres import eventually_sessions, sessions


@pytest.fixture
def owner() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in another thread, the case that crashes processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


def test_a_held_session_is_refused_on_another_loop_and_its_owner_goes_on(
    database_url: str, owner: asyncio.AbstractEventLoop
) -> None:
    engine = loopwatch.create_async_engine(database_url, name="guarded")
    session = AsyncSession(engine)

    async def own() -> int:
        return int((await session.execute(text("SELECT count(*) FROM pg_sleep(0.01)"))).scalar_one())

    async def misuse() -> None:
        current_task.set(TaskContext("content", "generate", "1"))
        await session.execute(text("SELECT 1"))

    asyncio.run_coroutine_threadsafe(own(), owner).result(60)
    labels = ("content", "generate", "asyncpg", "cross_loop", "guard")
    before = STATS.value(catalogue.LOOP_CONFLICTS, labels)
    for _ in range(20):
        busy = asyncio.run_coroutine_threadsafe(own(), owner)
        with pytest.raises(
            loopwatch.LoopConflictError, match=r"opened on loop 0x.*was used on loop 0x.*open another"
        ) as refused:
            asyncio.run(misuse())
        assert f"its engine was made at {__file__}:" in str(refused.value)
        assert busy.result(60) == 1
    assert STATS.value(catalogue.LOOP_CONFLICTS, labels) == before + 20
    asyncio.run_coroutine_threadsafe(session.close(), owner).result(60)
    assert sessions(database_url, "state like 'idle in transaction%%'") == 0


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up")
def test_closing_it_from_another_loop_touches_nothing_there_and_leaves_no_session(
    database_url: str, owner: asyncio.AbstractEventLoop
) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=30)

    async def take() -> AsyncSession:
        session = AsyncSession(engine)
        await session.execute(text("SELECT 1"))
        return session

    async def misuse(session: AsyncSession) -> None:
        try:
            await session.close()
        except loopwatch.LoopConflictError:
            return

    for _ in range(10):
        asyncio.run(misuse(asyncio.run_coroutine_threadsafe(take(), owner).result(60)))
        gc.collect()  # the session is refused its close, and lost: the collector gives its connection back
        # The slot is free again, on its own loop.
        session = asyncio.run_coroutine_threadsafe(take(), owner).result(60)
        asyncio.run_coroutine_threadsafe(session.close(), owner).result(60)
    assert eventually_sessions(database_url, 0, "state like 'idle in transaction%%'") == 0


def test_a_connection_of_a_loop_that_is_gone_is_refused_too(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url)
    loop = asyncio.new_event_loop()

    async def take() -> AsyncSession:
        session = AsyncSession(engine)
        await session.execute(text("SELECT 1"))
        return session

    session = loop.run_until_complete(take())

    async def misuse() -> None:
        with pytest.raises(loopwatch.LoopConflictError) as caught:
            await session.execute(text("SELECT 1"))
        assert caught.value.kind == "cross_loop"
        assert caught.value.resource == "asyncpg"

    asyncio.run(misuse())
    loop.run_until_complete(session.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert eventually_sessions(database_url, 0) == 0


def test_a_connection_class_of_the_users_is_kept_beneath(database_url: str) -> None:
    class Mine(asyncpg.Connection):
        """The user's."""

    engine = loopwatch.create_async_engine(database_url, connect_args={"connection_class": Mine})

    async def kind() -> type:
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            return type(raw.driver_connection)

    used = asyncio.run(kind())
    assert issubclass(used, Mine)
    assert used.__name__ == "GuardedMine"


TRIAL = """
import asyncio, sys, threading
from sqlalchemy import text
import loopwatch

engine = loopwatch.create_async_engine(sys.argv[1], pool_size=2)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()

async def take():
    connection = await engine.connect()
    await connection.execute(text("SELECT 1"))
    return connection

async def misuse(connection):
    try:
        await connection.execute(text("SELECT 1"))
    except loopwatch.LoopConflictError:
        return 1
    return 0

async def busy(connection):
    for _ in range(3):
        await connection.execute(text("SELECT 1"))

clear = 0
for _ in range(150):
    connection = asyncio.run_coroutine_threadsafe(take(), loop).result(60)
    working = asyncio.run_coroutine_threadsafe(busy(connection), loop)
    clear += asyncio.run(misuse(connection))
    working.result(60)
    asyncio.run_coroutine_threadsafe(connection.close(), loop).result(60)
print(clear)
"""


def test_150_clear_errors_in_150_trials_and_no_crash(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, database_url], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "150\n"), done.stderr
