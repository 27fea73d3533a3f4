"""`observe`: figures and conflicts of an engine that somebody else made."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import (
    AssertionPool,
    ConnectionPoolEntry,
    NullPool,
    Pool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)

import loopwatch
from loopwatch.adapters.observed_pool import _Observer
from loopwatch.conflicts import count_once
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.postgres import eventually_sessions, plain, sessions


async def backend(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


def conflicts() -> dict[tuple[str, ...], float]:
    """By queue, task, resource, kind and source."""
    table = STATS.counters().get(catalogue.LOOP_CONFLICTS.wire_name, {})
    return {labels: value for labels, value in table.items() if value and not isinstance(value, list)}


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    STATS.reset()


@pytest.fixture
def owner() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


def on(loop: asyncio.AbstractEventLoop, coroutine: object) -> object:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)  # type: ignore[arg-type]


def test_what_another_loop_is_handed_is_counted_and_nothing_else_changes(
    database_url: str, owner: asyncio.AbstractEventLoop
) -> None:
    # psycopg's connections, at rest, work on another loop: nobody else would ever tell.
    engine = loopwatch.observe(create_async_engine(database_url.replace("+asyncpg", "+psycopg")))
    mine = on(owner, backend(engine))
    assert on(owner, backend(engine)) == mine
    assert conflicts() == {}
    assert asyncio.run(backend(engine)) == mine
    assert conflicts() == {("", "", "sqlalchemy", "cross_loop", "guard"): 1}
    assert on(owner, backend(engine)) == mine
    assert conflicts() == {("", "", "sqlalchemy", "cross_loop", "guard"): 1}
    assert asyncio.run(backend(engine)) == mine
    assert conflicts() == {("", "", "sqlalchemy", "cross_loop", "guard"): 2}
    on(owner, engine.dispose())
    assert eventually_sessions(database_url, 0) == 0


def test_a_task_counts_once(database_url: str, owner: asyncio.AbstractEventLoop) -> None:
    engine = loopwatch.observe(create_async_engine(database_url.replace("+asyncpg", "+psycopg")))
    on(owner, backend(engine))

    async def task(number: str) -> None:
        current_task.set(TaskContext("logs", "app.store", number))
        for _ in range(3):
            await backend(engine)

    for number in ("1", "2", "2"):
        asyncio.run(task(number))
    assert conflicts() == {("logs", "app.store", "sqlalchemy", "cross_loop", "guard"): 3}
    on(owner, engine.dispose())


# In a process of its own: what it leaves behind nobody can end.
DISEASE = """
import asyncio, os, sys
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
import loopwatch
from loopwatch.conflicts import count_once
from loopwatch.telemetry.stats import STATS

url, pre_ping, closed = sys.argv[1], sys.argv[2] == "True", sys.argv[3] == "True"
engine = loopwatch.observe(create_async_engine(url, pool_pre_ping=pre_ping))
loop = asyncio.new_event_loop()

async def query():
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))

loop.run_until_complete(query())
if closed:
    loop.close()
try:
    asyncio.run(query())
except RuntimeError as error:
    print(STATS.counters()["loop_conflicts_total"])
    count_once(error, source="exception")  # as the task's failure would
    print(STATS.counters()["loop_conflicts_total"], flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("pre_ping", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_the_error_that_follows_is_not_counted_again(database_url: str, *, pre_ping: bool, closed: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DISEASE, database_url, str(pre_ping), str(closed)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    kind = "closed_loop" if closed else "cross_loop"
    once = str({("", "", "sqlalchemy", kind, "guard"): 1})
    assert done.stdout == f"{once}\n{once}\n", done.stderr


def test_a_conflict_of_something_else_on_it_is_still_counted(database_url: str) -> None:
    engine = loopwatch.observe(create_async_engine(database_url))

    other = asyncio.new_event_loop()

    async def run() -> None:
        try:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                await other.create_future()
        finally:
            await engine.dispose()

    with pytest.raises(RuntimeError, match="attached to a different loop") as raised:
        asyncio.run(run())
    other.close()
    count_once(raised.value, source="exception")
    assert list(conflicts().values()) == [1]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_guard_raise_refuses_before_the_connection_is_touched(
    database_url: str, owner: asyncio.AbstractEventLoop, driver: str
) -> None:
    url = database_url.replace("asyncpg", driver)
    engine = loopwatch.observe(
        create_async_engine(url, pool_size=1, max_overflow=0, pool_pre_ping=True), name=f"r_{driver}", guard="raise"
    )
    mine = on(owner, backend(engine))
    for _ in range(20):
        with pytest.raises(loopwatch.LoopConflictError, match=r"opened on loop 0x.*was used on loop 0x") as refused:
            asyncio.run(backend(engine))
    assert f"its engine was made at {__file__}:" in str(refused.value)
    assert "in backend\n" in refused.value.made_at
    assert conflicts() == {("", "", "sqlalchemy", "cross_loop", "guard"): 20}
    assert on(owner, backend(engine)) == mine
    assert sessions(database_url) == 1
    assert STATS.value(catalogue.POOL_INVALIDATED, (f"r_{driver}",)) == 0
    on(owner, engine.dispose())
    # A new pool, guarded as well.
    mine = on(owner, backend(engine))
    with pytest.raises(loopwatch.LoopConflictError):
        asyncio.run(backend(engine))
    assert on(owner, backend(engine)) == mine
    on(owner, engine.dispose())
    assert eventually_sessions(database_url, 0) == 0


def test_a_blocking_drivers_connection_belongs_to_no_loop(database_url: str) -> None:
    url = plain(database_url).replace("postgresql:", "postgresql+psycopg:")
    engine = loopwatch.observe(create_engine(url, pool_size=1), guard="raise")

    async def query() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())

    assert [asyncio.run(query()) for _ in range(3)] == [1, 1, 1]
    assert conflicts() == {}
    engine.dispose()


def test_a_guard_that_there_is_not_is_refused() -> None:
    with pytest.raises(loopwatch.ConfigurationError, match='guard is "count" or "raise", not \'refuse\''):
        loopwatch.observe(create_engine("sqlite://"), guard="refuse")  # type: ignore[arg-type]


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_many_threads_lose_no_count(tmp_path: Path) -> None:
    pool = f"threads_{tmp_path.name}"
    engine = create_engine(f"sqlite:///{tmp_path}/test.db", poolclass=QueuePool, pool_size=2, max_overflow=0)
    loopwatch.observe(engine, name=pool)

    def work(_: int) -> None:
        current_task.set(TaskContext("logs", "app.store", "1"))
        for _ in range(1500):
            engine.connect().close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert STATS.value(catalogue.POOL_WAIT, ("logs", pool)) == 12_000
    assert STATS.value(catalogue.POOL_USE, ("logs", pool)) == 12_000
    assert STATS.value(catalogue.TASK_POOL_USES, ("logs", "app.store", pool)) == 12_000
    gauges = STATS.gauges()
    assert gauges["pool_pending_requests"][(pool,)] == 0
    assert gauges["pool_connections"][(pool, "used")] == 0
    assert gauges["pool_connections"][(pool, "idle")] <= 2  # type: ignore[operator]
    engine.dispose()


def test_a_pool_that_asks_itself_again_has_waited_once() -> None:
    """As `QueuePool` does where another thread took what was free between two of its looks."""

    class Hesitant(QueuePool):
        hesitated = False

        def _do_get(self) -> ConnectionPoolEntry:
            if not self.hesitated:
                self.hesitated = True
                return self._do_get()
            return super()._do_get()

    engine = create_engine("sqlite://", poolclass=Hesitant, pool_size=1, max_overflow=0, pool_timeout=0.05)
    loopwatch.observe(engine, name="hesitant")
    with engine.connect():
        assert STATS.value(catalogue.POOL_WAIT, ("", "hesitant")) == 1
        engine.pool.hesitated = False  # type: ignore[attr-defined]
        with pytest.raises(PoolTimeoutError):
            engine.connect()
    assert STATS.value(catalogue.POOL_TIMEOUTS, ("", "hesitant")) == 1
    assert STATS.value(catalogue.POOL_USE, ("", "hesitant")) == 1
    assert STATS.gauges()["pool_pending_requests"][("hesitant",)] == 0
    engine.dispose()


@pytest.mark.usefixtures("frequent_switches")
def test_conflicts_of_many_threads_at_once_are_counted_and_raise_nothing() -> None:
    observer = _Observer(create_engine("sqlite://"), "conflicting", None, "count")

    def work(_: int) -> int:
        tasks = [TaskContext("logs", "app.store", "1") for _ in range(1000)]
        return sum(observer._is_counted(task) for task in tasks for _ in range(2))

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, range(4))) >= 3600  # the second time; a few were forgotten between the two


def test_one_engine_on_loops_in_many_threads_loses_no_count(database_url: str) -> None:
    engine = loopwatch.observe(create_async_engine(database_url, poolclass=NullPool), name="their_threads")
    asyncio.run(backend(engine))  # SQLAlchemy's first connect is not made for several loops
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: asyncio.run(backend(engine)), range(40)))
    assert STATS.value(catalogue.POOL_USE, ("", "their_threads")) == 41
    assert STATS.value(catalogue.POOL_CREATE, ("their_threads",)) == 41
    assert conflicts() == {}


@pytest.mark.parametrize(
    ("poolclass", "opened"), [(NullPool, 4), (StaticPool, 2), (SingletonThreadPool, 2), (AssertionPool, 2)]
)
def test_every_kind_of_pool_is_measured_also_after_a_dispose(
    tmp_path: Path, poolclass: type[Pool], opened: int
) -> None:
    name = poolclass.__name__
    engine = loopwatch.observe(create_engine(f"sqlite:///{tmp_path}/test.db", poolclass=poolclass), name=name)
    for _ in range(2):
        for _ in range(2):
            with engine.connect() as connection:
                assert STATS.gauges()["pool_connections"][(name, "used")] == 1
                connection.execute(text("SELECT 1"))
        engine.dispose()
    assert type(engine.pool) is poolclass
    assert STATS.value(catalogue.POOL_USE, ("", name)) == 4
    assert STATS.value(catalogue.POOL_CREATE, (name,)) == opened
    assert STATS.gauges()["pool_connections"][(name, "used")] == 0
