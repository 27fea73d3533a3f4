"""MySQL's two asynchronous drivers on a real MariaDB: one global engine, any loop, any thread, any fork."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop
from sqlalchemy import event, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.integration import mysql
from tests.integration.mysql import eventually_sessions, sessions


async def select_one(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


@pytest.fixture(params=mysql.DRIVERS)
def url(request: pytest.FixtureRequest, mariadb_url: str) -> str:
    return mysql.with_driver(mariadb_url, request.param)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_150_runs_on_one_global_engine_leave_no_server_connection(
    url: str, mariadb_url: str, run: Callable[..., object]
) -> None:
    engine = loopwatch.create_async_engine(url)
    opened: list[object] = []
    event.listen(engine.sync_engine, "connect", lambda *_: opened.append(sessions(mariadb_url)))

    for _ in range(150):
        assert run(select_one(engine)) == 1
    assert opened[0] == 1  # the witness sees them
    assert len(opened) == 150
    assert eventually_sessions(mariadb_url, 0) == 0
    assert len(engine.pool.loops) == 0  # type: ignore[attr-defined]


def test_loops_in_many_threads(url: str, mariadb_url: str) -> None:
    engine = loopwatch.create_async_engine(url, name="mysql_threads", pool_size=2)

    def several(_: int) -> list[int]:
        async def run() -> list[int]:
            return await asyncio.gather(*(select_one(engine) for _ in range(4)))

        return asyncio.run(run())

    before = STATS.value(catalogue.POOL_USE, ("", "mysql_threads"))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(several, range(20))) == [[1] * 4] * 20
    assert STATS.value(catalogue.POOL_USE, ("", "mysql_threads")) == before + 80
    assert eventually_sessions(mariadb_url, 0) == 0


@pytest.mark.filterwarnings("ignore")  # what a bare close leaves behind warns, rightly; it must not stay behind
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("leave_in_use", [False, True])
def test_a_loop_that_is_just_closed_is_swept(
    url: str, mariadb_url: str, factory: Callable[[], asyncio.AbstractEventLoop], leave_in_use: bool
) -> None:
    engine = loopwatch.create_async_engine(url, name="mysql_swept")
    held: list[object] = []

    async def use() -> None:
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))
        if leave_in_use:
            held.append(connection)
        else:
            await connection.close()

    before = STATS.value(catalogue.ENGINES_DISPOSED, ("mysql_swept", "loop_closed"))
    for _ in range(5):
        loop = factory()
        loop.run_until_complete(use())
        loop.close()
    assert asyncio.run(select_one(engine)) == 1
    assert eventually_sessions(mariadb_url, 0) == 0
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("mysql_swept", "loop_closed")) >= before + 5
    held.clear()
    gc.collect()


@pytest.mark.parametrize("flavour", ["asyncio", "uvloop"])
@pytest.mark.parametrize("what", ["use it", "dispose", "dispose(close=False)"])
def test_a_fork_with_open_connections_harms_neither_side(url: str, mariadb_url: str, flavour: str, what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.integration.forking", url, flavour, what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "ok\n", done.stderr
    assert eventually_sessions(mariadb_url, 0) == 0


def test_what_the_pool_tells(url: str) -> None:
    pool = f"told_{url[6:13]}"
    engine = loopwatch.create_async_engine(url, name=pool, pool_size=1, max_overflow=0, pool_timeout=0.2)
    gauges: dict[str, dict[tuple[str, ...], object]] = {}

    async def run() -> None:
        current_task.set(TaskContext("logs", "app.store", "1"))
        async with engine.connect():
            gauges.update(STATS.gauges())  # type: ignore[arg-type]
            with pytest.raises(exc.TimeoutError):
                await engine.connect()

    asyncio.run(run())
    assert gauges["pool_connections"][(pool, "used")] == 1
    assert gauges["pool_connections_max"][(pool,)] == 1
    assert gauges["pool_info"][(pool, "sqlalchemy", f"127.0.0.1:{engine.url.port}/{engine.url.database}")] == 1
    assert STATS.value(catalogue.POOL_TIMEOUTS, ("logs", pool)) == 1
    assert STATS.value(catalogue.POOL_CREATE, (pool,)) == 1
    assert STATS.value(catalogue.POOL_USE, ("logs", pool)) == 1
    assert str(engine.url.password) not in str(STATS.gauges())
