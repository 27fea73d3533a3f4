"""The guard, driver by driver: the connection of a loop that runs in another thread is refused, its owner unharmed."""

from __future__ import annotations

import asyncio
import gc
import pickle
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.util import greenlet_spawn

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.integration import mysql
from tests.postgres import plain

SLOW = {
    "asyncpg": "SELECT 1 FROM pg_sleep(0.02)",
    "psycopg": "SELECT 1 FROM pg_sleep(0.02)",
    "aiomysql": "SELECT 1 + SLEEP(0.02)",
    "asyncmy": "SELECT 1 + SLEEP(0.02)",
    "aiosqlite": "SELECT count(*) > 0 FROM (WITH RECURSIVE c(x) AS "
    "(SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 50000) SELECT x FROM c)",
}
"""A statement that returns 1 and takes a while."""


@pytest.fixture(params=SLOW)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if driver == "aiosqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/test.db"
    if driver in mysql.DRIVERS:
        return mysql.with_driver(request.getfixturevalue("mariadb_url"), driver)
    return str(request.getfixturevalue("database_url")).replace("+asyncpg", f"+{driver}")


class Owner:
    """A loop that runs in another thread, the case that crashes processes and hangs both sides."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.begin(coroutine).result(60)

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self) -> None:
        self.run(self.loop.shutdown_asyncgens())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()


@pytest.fixture
def owner() -> Iterator[Owner]:
    running = Owner()
    yield running
    running.close()


async def make_table(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE numbers (n int)"))


async def insert(engine: AsyncEngine) -> AsyncConnection:
    connection = await engine.connect()
    await connection.execute(text("INSERT INTO numbers VALUES (1)"))
    return connection


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM numbers"))).scalar_one())


def misuse(use: Callable[[], Coroutine[Any, Any, Any]]) -> loopwatch.LoopConflictError:
    """What another loop gets for it; that a deadline is needed would be the disease."""

    async def run() -> None:
        async with asyncio.timeout(60):
            await use()

    with pytest.raises(loopwatch.LoopConflictError) as refused:
        asyncio.run(run())
    return refused.value


def test_clear_errors_while_the_owners_statement_is_under_way(driver: str, url: str, owner: Owner) -> None:
    engine = loopwatch.create_async_engine(url)

    async def take() -> AsyncSession:
        session = AsyncSession(engine)
        await session.execute(text("SELECT 1"))
        return session

    async def work(session: AsyncSession, began: threading.Event) -> list[int]:
        began.set()
        return [int((await session.execute(text(SLOW[driver]))).scalar_one()) for _ in range(3)]

    async def use() -> None:
        current_task.set(TaskContext("content", "generate", "1"))
        await session.execute(text("SELECT 1"))

    session = owner.run(take())
    labels = ("content", "generate", driver, "cross_loop", "guard")
    before = STATS.value(catalogue.LOOP_CONFLICTS, labels)
    for _ in range(30):
        began = threading.Event()
        working = owner.begin(work(session, began))
        assert began.wait(60)
        error = misuse(use)
        assert (error.resource, error.kind) == (driver, "cross_loop")
        assert working.result(60) == [1, 1, 1]
    assert STATS.value(catalogue.LOOP_CONFLICTS, labels) == before + 30
    owner.run(session.close())


def test_the_error_says_where_the_connection_was_opened_and_survives_pickling(url: str, owner: Owner) -> None:
    engine = loopwatch.create_async_engine(url)
    connection = owner.run(engine.connect().start())
    error = misuse(lambda: connection.execute(text("SELECT 1")))
    assert re.search(
        r"a connection that was opened on loop 0x\w+ \(asyncio, running\) \(at .*; its engine was made at .*\) was "
        r"used on loop 0x\w+ \(asyncio, running\)\. .* open another one where you need it",
        str(error),
    )
    assert f"; its engine was made at {__file__}:" in str(error)
    assert pickle.loads(pickle.dumps(error)).made_at == error.made_at
    owner.run(connection.close())


async def use_it(engine: AsyncEngine) -> None:
    async with engine.connect():
        pass


async def open_deep_down(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


def test_the_stack_is_that_of_the_first_use(url: str) -> None:
    engine = loopwatch.create_async_engine(url)
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(open_deep_down(engine))
    error = misuse(lambda: connection.execute(text("SELECT 1")))
    assert f"(at {__file__}:" in str(error)
    assert "in open_deep_down\n    return await engine.connect()" in error.made_at
    assert "site-packages/sqlalchemy" not in error.made_at
    loop.run_until_complete(connection.close())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.filterwarnings("ignore:.*ServerCursor")  # psycopg's, of a stream that its owner has not closed
@pytest.mark.parametrize("way", ["execute", "commit", "rollback", "close", "ping", "stream", "a stream that was begun"])
def test_every_way_in_is_refused_and_the_owners_transaction_goes_on(
    driver: str, url: str, owner: Owner, way: str
) -> None:
    engine = loopwatch.create_async_engine(url)
    owner.run(make_table(engine))
    connection: AsyncConnection = owner.run(insert(engine))
    adapter: Any = owner.run(connection.get_raw_connection()).dbapi_connection
    many = "SELECT 1 FROM (SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3) AS three"

    async def begin_stream() -> Any:
        result = await connection.stream(text(many), execution_options={"yield_per": 1})
        await result.fetchone()
        return result

    async def on_adapter(method: str) -> None:
        await in_greenlet(getattr(adapter, method))

    begun: Any = owner.run(begin_stream()) if way == "a stream that was begun" else None
    ways: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "execute": lambda: connection.execute(text("INSERT INTO numbers VALUES (2)")),
        "stream": begin_stream,
        "a stream that was begun": lambda: begun.fetchone(),
        **{name: (lambda name=name: on_adapter(name)) for name in ("commit", "rollback", "close", "ping")},  # type: ignore[misc]
    }
    if way == "ping" and not hasattr(adapter, "ping"):
        owner.run(connection.close())
        return  # psycopg and aiosqlite are pinged by a statement
    before = sum(STATS.counters().get("loop_conflicts_total", {}).values())  # type: ignore[arg-type]
    misuse(ways[way])
    assert sum(STATS.counters()["loop_conflicts_total"].values()) == before + 1  # type: ignore[arg-type]
    if begun is not None:
        owner.run(begun.close())
    owner.run(connection.execute(text("INSERT INTO numbers VALUES (3)")))
    owner.run(connection.commit())
    owner.run(connection.close())
    assert owner.run(count(engine)) == 2


async def in_greenlet(method: Callable[[], object]) -> None:
    """The adapter's methods are synchronous, and wait in SQLAlchemy's greenlet."""
    await greenlet_spawn(method)


@pytest.mark.filterwarnings("ignore")  # what a bare close leaves behind warns, rightly
def test_a_connection_of_a_closed_loop_is_refused(driver: str, url: str) -> None:
    engine = loopwatch.create_async_engine(url)
    loop = asyncio.new_event_loop()
    held = [loop.run_until_complete(engine.connect().start())]
    loop.close()
    error = misuse(lambda: held[0].execute(text("SELECT 1")))
    assert (error.resource, error.kind) == (driver, "closed_loop")
    assert "(asyncio, closed)" in str(error)
    asyncio.run(use_it(engine))  # sweeps
    held.clear()
    del error
    gc.collect()


def test_an_engine_with_an_async_creator_is_guarded_too(driver: str, url: str, owner: Owner) -> None:
    other = loopwatch.create_async_engine(url)
    dialect: Any = other.dialect
    arguments, options = dialect.create_connect_args(other.url)

    async def connect() -> Any:
        if driver == "psycopg":
            import psycopg

            return await psycopg.AsyncConnection.connect(*arguments, **options)
        return await __import__(driver).connect(*arguments, **options)

    engine = loopwatch.create_async_engine(url, async_creator=connect)
    connection = owner.run(engine.connect().start())
    error = misuse(lambda: connection.execute(text("SELECT 1")))
    assert error.resource == driver
    owner.run(connection.execute(text("SELECT 1")))
    owner.run(connection.close())


async def _terminate(raw: Any) -> None:
    raw.terminate()


OWN_WAYS: dict[tuple[str, str], Callable[[Any], Coroutine[Any, Any, Any]]] = {
    ("asyncpg", "fetchval"): lambda raw: raw.fetchval("SELECT 1"),
    ("asyncpg", "execute"): lambda raw: raw.execute("INSERT INTO numbers VALUES (2)"),
    ("asyncpg", "transaction"): lambda raw: raw.transaction().start(),
    ("asyncpg", "copy"): lambda raw: raw.copy_records_to_table("numbers", records=[(2,)]),
    ("asyncpg", "close"): lambda raw: raw.close(),
    ("asyncpg", "terminate"): _terminate,
    ("psycopg", "execute"): lambda raw: raw.execute("INSERT INTO numbers VALUES (2)"),
    ("psycopg", "commit"): lambda raw: raw.commit(),
    ("psycopg", "rollback"): lambda raw: raw.rollback(),
}
"""Ways in that pass SQLAlchemy by: the driver's own connection (``driver_connection``)."""


@pytest.mark.parametrize(("driver", "way"), OWN_WAYS, indirect=["driver"])
def test_the_drivers_own_connection_is_refused_and_its_transaction_goes_on(
    driver: str, url: str, owner: Owner, way: str
) -> None:
    engine = loopwatch.create_async_engine(url)
    owner.run(make_table(engine))
    connection: AsyncConnection = owner.run(insert(engine))
    raw: Any = owner.run(connection.get_raw_connection()).driver_connection
    misuse(lambda: OWN_WAYS[driver, way](raw))
    owner.run(connection.execute(text("INSERT INTO numbers VALUES (3)")))
    owner.run(connection.commit())
    owner.run(connection.close())
    assert owner.run(count(engine)) == 2


def test_a_connection_borrowed_from_asyncpgs_own_pool_works(database_url: str) -> None:
    """It cannot be guarded, as it takes no weak reference; that must not keep it from working."""

    async def use() -> int:
        async with asyncpg.create_pool(plain(database_url), min_size=1, max_size=2) as pool:

            async def borrow() -> Any:
                return await pool.acquire()

            engine = loopwatch.create_async_engine("postgresql+asyncpg://", async_creator=borrow)
            async with engine.connect() as connection:
                answer = int((await connection.execute(text("SELECT 1"))).scalar_one())
            await engine.dispose()
        return answer

    assert asyncio.run(use()) == 1
