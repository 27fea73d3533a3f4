"""`LoopAwarePool` on a real PostgreSQL: every point that a pool of loops must mind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop
from sqlalchemy import event, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

import loopwatch
from loopwatch.adapters import loop_pool
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.postgres import eventually_sessions, terminate_sessions

Run = Callable[[object], object]


async def select_one(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    return asyncio.run if request.param == "asyncio" else uvloop.run


def test_200_runs_on_one_global_engine_leave_no_server_connection(
    database_url: str, run: Callable[..., object]
) -> None:
    engine = loopwatch.create_async_engine(database_url)

    async def task() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(select_one(engine))

    for _ in range(200):
        run(task())
    assert eventually_sessions(database_url, 0) == 0
    assert len(engine.pool.loops) == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_run_that_ends_in_an_exception_leaves_nothing(database_url: str, end: type[BaseException]) -> None:
    engine = loopwatch.create_async_engine(database_url)

    async def task() -> None:
        await select_one(engine)
        raise end

    with pytest.raises(end):
        asyncio.run(task())
    assert eventually_sessions(database_url, 0) == 0


def test_four_threads_that_connect_first_at_once_all_get_an_initialised_dialect(database_url: str) -> None:
    outcomes: list[object] = []

    def worker(engine: AsyncEngine, barrier: threading.Barrier) -> None:
        async def first() -> None:
            barrier.wait(60)
            async with engine.connect() as connection:
                outcomes.append((await connection.execute(text("SELECT 1"))).scalar_one())
                outcomes.append(connection.dialect.server_version_info is not None)

        asyncio.run(first())

    for _ in range(15):
        engine = loopwatch.create_async_engine(database_url)
        barrier = threading.Barrier(4)
        with ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(worker, engine, barrier) for _ in range(4)]:
                future.result(60)
    assert outcomes.count(1) == 120  # 60 times SELECT 1, 60 times True
    assert eventually_sessions(database_url, 0) == 0


def test_listeners_added_late_are_heard_on_every_loop_and_first_connect_runs_once(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url)
    heard: list[str] = []
    event.listen(engine.sync_engine, "first_connect", lambda *_: heard.append("first_connect"))

    async def run() -> None:
        await select_one(engine)

    asyncio.run(run())
    event.listen(engine.sync_engine, "connect", lambda *_: heard.append("connect"))
    event.listen(engine.sync_engine.pool, "checkin", lambda *_: heard.append("checkin"))
    asyncio.run(run())
    asyncio.run(run())
    assert heard == ["first_connect", "connect", "checkin", "connect", "checkin"]


def test_a_detached_connection_gives_its_slot_back(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=30)

    async def run() -> None:
        for _ in range(3):
            connection = await engine.connect()
            raw = await connection.get_raw_connection()
            raw.detach()
            await connection.close()
            assert await select_one(engine) == 1

    asyncio.run(run())
    assert eventually_sessions(database_url, 0) == 0


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up")
@pytest.mark.parametrize("where", ["on the loop", "in another thread"])
def test_a_lost_connection_gives_its_slot_back(database_url: str, where: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=30)

    async def lose() -> None:
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))
        # A cycle, so that the reference count alone does not end it here and now.
        cycle: list[object] = [connection]
        cycle.append(cycle)

    async def run() -> None:
        gc.disable()
        try:
            await lose()
            if where == "on the loop":
                gc.collect()
            else:
                await asyncio.to_thread(gc.collect)
        finally:
            gc.enable()
        assert await select_one(engine) == 1

    asyncio.run(run())
    assert eventually_sessions(database_url, 0) == 0


def test_sessions_ended_by_the_server_cost_one_error_not_one_each(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=4)

    async def run() -> int:
        all_held = asyncio.Barrier(4)
        await asyncio.gather(*(hold(all_held) for _ in range(4)))
        assert terminate_sessions(database_url) == 4
        errors = 0
        for _ in range(8):
            try:
                await select_one(engine)
            except exc.DBAPIError:
                errors += 1
        return errors

    async def hold(all_held: asyncio.Barrier) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await all_held.wait()

    assert asyncio.run(run()) == 1


def test_an_invalidation_seen_on_one_loop_is_known_on_all(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="seen_on_all")
    one, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        one.run_until_complete(select_one(engine))
        other.run_until_complete(select_one(engine))
        terminate_sessions(database_url)
        with pytest.raises(exc.DBAPIError):
            one.run_until_complete(select_one(engine))
        assert other.run_until_complete(select_one(engine)) == 1
        assert STATS.value(catalogue.POOL_INVALIDATED, ("seen_on_all",)) >= 1
    finally:
        for loop in (one, other):
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    assert eventually_sessions(database_url, 0) == 0


def test_sums_over_loops_and_the_kind_of_pool(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=3, max_overflow=1)
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    assert (pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow()) == (3, 0, 0, -3)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    held = [loop.run_until_complete(engine.connect().start()) for loop in loops]
    assert (pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow()) == (6, 0, 2, -4)
    assert "Current Checked out connections: 2" in pool.status()
    for loop, connection in zip(loops, held, strict=True):
        loop.run_until_complete(connection.close())
        assert pool.checkedin() >= 1
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert (pool.size(), pool.checkedin(), pool.checkedout(), pool.overflow()) == (3, 0, 0, -3)


def test_dispose_acts_on_this_loop_at_once_and_on_the_others_at_their_next_use(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url)
    one, other = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def backend() -> int:
        async with engine.connect() as connection:
            return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())

    async def dispose_with_one_in_use() -> None:
        async with engine.connect() as connection:
            await engine.dispose()
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1

    before = other.run_until_complete(backend())
    one.run_until_complete(select_one(engine))
    one.run_until_complete(dispose_with_one_in_use())
    assert eventually_sessions(database_url, 1) == 1  # the other loop's: nobody but its owner may close it
    assert other.run_until_complete(backend()) != before
    one.run_until_complete(select_one(engine))
    assert eventually_sessions(database_url, 2) == 2
    engine.sync_engine.dispose()  # no loop is running here
    assert other.run_until_complete(backend()) > 0
    for loop in (one, other):
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert eventually_sessions(database_url, 0) == 0


@pytest.mark.filterwarnings("ignore")  # what a bare close leaves behind warns, rightly; it must not stay behind
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("leave_in_use", [False, True])
def test_a_loop_that_is_just_closed_is_swept(
    database_url: str, factory: Callable[[], asyncio.AbstractEventLoop], leave_in_use: bool
) -> None:
    engine = loopwatch.create_async_engine(database_url, name="swept")
    held: list[object] = []

    async def use() -> None:
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))
        if leave_in_use:
            held.append(connection)
        else:
            await connection.close()

    for _ in range(5):
        loop = factory()
        loop.run_until_complete(use())
        loop.close()
    asyncio.run(select_one(engine))
    assert eventually_sessions(database_url, 0) == 0
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("swept", "loop_closed")) >= 5
    held.clear()
    gc.collect()


@pytest.mark.filterwarnings("ignore")  # uvloop complains that a generator came too late; asyncpg, of the bare end
def test_a_first_use_while_the_loop_shuts_down_leaves_nothing(database_url: str, run: Callable[..., object]) -> None:
    engine = loopwatch.create_async_engine(database_url)
    seen: list[int] = []
    kept: list[AsyncIterator[int]] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append(await select_one(engine))

    async def main() -> None:
        kept.append(generator())
        await anext(kept[0])

    run(main())
    assert seen == [1]
    # By itself: no other loop has swept yet.
    assert eventually_sessions(database_url, 0) == 0
    asyncio.run(select_one(engine))
    assert eventually_sessions(database_url, 0) == 0
    gc.collect()


@pytest.mark.parametrize("patience", [30 * loop_pool.DRAIN, 0.0], ids=["waited for", "too late"])
def test_a_generator_of_the_users_may_hold_a_connection_to_the_end(
    database_url: str,
    run: Callable[..., object],
    patience: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(loop_pool, "DRAIN", patience)
    engine = loopwatch.create_async_engine(database_url)
    rows: list[int] = []
    kept: list[AsyncIterator[int]] = []

    async def stream() -> AsyncIterator[int]:
        async with engine.connect() as connection:
            try:
                yield 1
            finally:
                await asyncio.sleep(0.1)
                rows.append((await connection.execute(text("SELECT 2"))).scalar_one())

    async def main() -> None:
        kept.append(stream())
        await anext(kept[0])

    run(main())
    assert rows == [2]
    # What comes back too late is closed by itself: no other loop has swept yet.
    assert eventually_sessions(database_url, 0) == 0
    assert ("still in use" in caplog.text) == (not patience)


def test_async_sessions_work_on_any_loop(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url)
    make_session = async_sessionmaker(engine, expire_on_commit=False)

    async def run() -> int:
        async with make_session() as session, session.begin():
            return int((await session.execute(text("SELECT 7"))).scalar_one())

    assert [asyncio.run(run()) for _ in range(5)] == [7] * 5
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: asyncio.run(run()), range(20))) == [7] * 20
    assert eventually_sessions(database_url, 0) == 0


def test_what_the_pool_tells(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="told", pool_size=1, max_overflow=0, pool_timeout=0.2)
    task = TaskContext("logs", "app.store", "1")
    gauges: dict[str, dict[tuple[str, ...], object]] = {}

    async def run() -> None:
        current_task.set(task)
        async with engine.connect():
            gauges.update(STATS.gauges())  # type: ignore[arg-type]
            with pytest.raises(exc.TimeoutError):
                await engine.connect()

    asyncio.run(run())
    assert gauges["pool_connections"][("told", "used")] == 1
    assert gauges["pool_connections"][("told", "idle")] == 0
    assert gauges["pool_connections_max"][("told",)] == 1
    assert gauges["pool_connections_peak"][("told",)] == 1
    assert gauges["pool_checked_out_connections"][("logs", "told")] == 1
    assert gauges["pool_info"][("told", "sqlalchemy", engine.pool.labels.database)] == 1  # type: ignore[attr-defined]
    assert gauges["engines"][("told",)] == 1
    assert STATS.value(catalogue.POOL_TIMEOUTS, ("logs", "told")) == 1
    assert STATS.value(catalogue.POOL_WAIT, ("logs", "told")) == 2
    assert STATS.value(catalogue.POOL_USE, ("logs", "told")) == 1
    assert STATS.value(catalogue.TASK_POOL_USES, ("logs", "app.store", "told")) == 1
    assert STATS.value(catalogue.TASK_POOL_WAIT, ("logs", "app.store", "told")) >= 0.2
    password = engine.url.password
    assert password
    assert password not in str(STATS.gauges())


def test_as_a_poolclass_it_learns_the_database_on_the_first_connect(database_url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(database_url, poolclass=loopwatch.LoopAwarePool)
    asyncio.run(select_one(engine))
    assert engine.pool.labels.pool == engine.url.database  # type: ignore[attr-defined]
    assert engine.pool.labels.database.endswith(f":{engine.url.port}/{engine.url.database}")  # type: ignore[attr-defined]
    assert eventually_sessions(database_url, 0) == 0


def test_other_pools_stay_what_they_are_and_are_measured(database_url: str) -> None:
    null = loopwatch.create_async_engine(database_url, poolclass=NullPool, name="null")
    static = loopwatch.create_async_engine("sqlite+aiosqlite://", name="static")
    assert type(null.pool) is NullPool
    assert type(static.pool) is StaticPool

    async def run() -> None:
        await select_one(null)
        await select_one(null)
        await select_one(static)
        await static.dispose()

    asyncio.run(run())
    assert STATS.value(catalogue.POOL_CREATE, ("null",)) == 2
    assert STATS.value(catalogue.POOL_USE, ("", "static")) == 1


@pytest.mark.filterwarnings("ignore")  # a plain engine on two loops is what this package exists against
def test_observe_shows_an_engine_of_somebody_else_with_connections_of_a_dead_loop(database_url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = loopwatch.observe(create_async_engine(database_url, pool_size=3), name="theirs")
    asyncio.run(select_one(engine))
    gauges = STATS.gauges()
    assert gauges["engines"][("theirs",)] == 1
    assert gauges["engines_orphaned"][("theirs",)] == 1
    assert gauges["pool_connections"][("theirs", "idle")] == 1
    engine.sync_engine.dispose(close=False)
    del engine
    gc.collect()
