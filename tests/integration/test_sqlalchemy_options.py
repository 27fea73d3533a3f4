"""Every option of SQLAlchemy's pools and engines means on a `LoopAwarePool` what it means elsewhere; misuse is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.ext.asyncio import create_async_engine as plain_create_async_engine

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.postgres import eventually_sessions, terminate_sessions

BACKEND = text("SELECT pg_backend_pid()")


async def backend(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(BACKEND)).scalar_one())


@pytest.mark.parametrize("lifo", [False, True])
def test_use_lifo(database_url: str, lifo: bool) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_use_lifo=lifo)

    async def run() -> None:
        first, second = await engine.connect(), await engine.connect()
        backends = [int((await one.execute(BACKEND)).scalar_one()) for one in (first, second)]
        await first.close()
        await second.close()
        assert await backend(engine) == backends[1 if lifo else 0]

    asyncio.run(run())


def test_recycle_replaces_what_is_old(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_recycle=3600)

    async def run() -> None:
        async with engine.connect() as connection:
            before = int((await connection.execute(BACKEND)).scalar_one())
            fairy: Any = await connection.get_raw_connection()
            record = fairy._connection_record
        assert await backend(engine) == before
        record.starttime -= 3601
        assert await backend(engine) != before

    asyncio.run(run())
    assert eventually_sessions(database_url, 0) == 0


def test_pre_ping_replaces_what_the_server_has_ended(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_pre_ping=True)

    async def run() -> None:
        before = await backend(engine)
        assert terminate_sessions(database_url) == 1
        assert await backend(engine) != before

    asyncio.run(run())


@pytest.mark.parametrize(("way", "kept"), [("rollback", 0), ("commit", 1)])
def test_reset_on_return(database_url: str, way: str, kept: int) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_reset_on_return=way)

    async def run() -> int:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE kept (n int)"))
        raw = await engine.raw_connection()
        cursor = raw.cursor()
        from sqlalchemy.util import greenlet_spawn

        await greenlet_spawn(cursor.execute, "INSERT INTO kept VALUES (1)")
        await greenlet_spawn(raw.close)
        async with engine.connect() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM kept"))).scalar_one())

    assert asyncio.run(run()) == kept


def test_echo_and_its_logging_name(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = loopwatch.create_async_engine(database_url, echo_pool="debug", pool_logging_name="ours")
    asyncio.run(backend(engine))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("sqlalchemy.pool.impl.")]
    assert any("checked out from pool" in message for message in told)
    assert {record.name.rpartition(".")[2] for record in caplog.records if "pool" in record.name} == {"ours"}


def test_no_limit(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="unlimited", pool_size=1, max_overflow=-1)

    async def run() -> None:
        held = [await engine.connect() for _ in range(20)]
        assert engine.pool.checkedout() == 20  # type: ignore[attr-defined]
        gauges = STATS.gauges()
        assert gauges["pool_connections"][("unlimited", "used")] == 20
        assert ("unlimited",) not in gauges["pool_connections_max"]
        for connection in held:
            await connection.close()

    # Another pool, so that the family is there.
    other = loopwatch.create_async_engine(database_url, name="limited")
    asyncio.run(run())
    assert other.pool.size() == 5  # type: ignore[attr-defined]
    assert eventually_sessions(database_url, 0) == 0


def test_the_timeout_of_a_full_pool(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="full", pool_size=1, max_overflow=1, pool_timeout=0.05)

    async def run() -> None:
        async with engine.connect(), engine.connect():
            with pytest.raises(exc.TimeoutError, match="QueuePool limit of size 1 overflow 1 reached"):
                await engine.connect()

    asyncio.run(run())
    assert STATS.value(catalogue.POOL_TIMEOUTS, ("", "full")) == 1


def test_execution_options_share_the_pool(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="optioned", pool_size=1, max_overflow=0, pool_timeout=30)
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def run() -> tuple[int, int]:
        async with autocommit.connect() as connection:
            await connection.execute(text("CREATE TABLE committed (n int)"))
            first = int((await connection.execute(BACKEND)).scalar_one())
        async with engine.connect() as connection:
            await connection.execute(text("SELECT * FROM committed"))
            return first, int((await connection.execute(BACKEND)).scalar_one())

    first, second = asyncio.run(run())
    assert first == second
    assert autocommit.pool is engine.pool
    assert STATS.value(catalogue.POOL_CREATE, ("optioned",)) == 1


def test_scoped_sessions_and_the_connection_of_a_session(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=30)
    sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)

    async def one() -> int:
        connection = await sessions.connection()
        assert (await sessions.execute(BACKEND)).scalar_one() == (await connection.execute(BACKEND)).scalar_one()
        await sessions.remove()
        async with AsyncSession(engine) as session:
            return int((await session.scalars(text("SELECT 1"))).one())

    async def run() -> list[int]:
        return await asyncio.gather(*(one() for _ in range(4)))

    assert [asyncio.run(run()) for _ in range(3)] == [[1] * 4] * 3
    assert eventually_sessions(database_url, 0) == 0


# ---------------------------------------------------------------- misuse


@pytest.mark.parametrize("size", [0, -1])
def test_a_pool_of_no_connections_is_refused(size: int) -> None:
    url = "postgresql+asyncpg://localhost/app"
    told = rf"at least 1, not {size}: to keep none write `poolclass=NullPool`, to have no limit `max_overflow=-1`"
    with pytest.raises(loopwatch.ConfigurationError, match=told):
        loopwatch.create_async_engine(url, pool_size=size)
    with pytest.raises(loopwatch.ConfigurationError, match=told):
        plain_create_async_engine(url, poolclass=loopwatch.LoopAwarePool, pool_size=size)


def test_an_overflow_below_no_limit_is_refused() -> None:
    with pytest.raises(loopwatch.ConfigurationError, match="max_overflow is 0 or more, or -1 for no limit, not -2"):
        loopwatch.create_async_engine("postgresql+asyncpg://localhost/app", max_overflow=-2)


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("sqlite:///app.db", "sqlite+aiosqlite"),
        ("postgresql+psycopg2://localhost/app", "postgresql+asyncpg"),
        ("mysql+pymysql://localhost/app", "mysql+asyncmy"),
    ],
)
def test_a_blocking_drivers_url_is_told_the_asynchronous_one(url: str, instead: str) -> None:
    told = rf"that of .*:// blocks: write {instead.replace('+', '.')}://\.\.\."
    with pytest.raises(exc.InvalidRequestError, match=told) as refused:
        loopwatch.create_async_engine(url)
    assert isinstance(refused.value, loopwatch.ConfigurationError)


def test_where_no_loop_runs_it_says_what_to_write(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url)
    with pytest.raises(RuntimeError, match=r"no event loop is running.*loopwatch\.run_async"):
        engine.sync_engine.connect()
