"""`loopwatch.testing` and the pytest plugin: what leaks fails, what does not passes."""

from __future__ import annotations

import asyncio
import doctest
import pickle
import subprocess
import sys
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

pytest_plugins = ["pytester"]


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
    async with asyncio.timeout(10):
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


# ---------------------------------------------------------------- the plugin
MIXED = """
    import asyncio
    import pytest
    import loopwatch
    from loopwatch.conflicts import count_once

    things = loopwatch.PerLoop(list, name="things")

    async def use():
        return things.get()

    def leak():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        loop.close()

    def test_clean():
        asyncio.run(use())

    def test_leaves():
        leak()

    def test_after_it():  # sweeps what the one before has left
        asyncio.run(use())

    def test_conflict():
        error = loopwatch.LoopConflictError("x", resource="redis", kind="closed_loop")
        count_once(error, source="guard")

    @pytest.mark.loopwatch("off")
    def test_may():
        leak()

    def test_uses_the_fixture(loopwatch_check):
        leak()

    @pytest.mark.loopwatch
    def test_is_marked():
        leak()
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A directory for another test run, in a process of its own: the plugin comes by its entry point."""
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = -p no:asyncio\n")
    return pytester


def test_it_is_off_unless_a_test_asks(project: pytest.Pytester) -> None:
    project.makepyfile(MIXED)
    result = project.runpytest_subprocess("--strict-markers")
    result.assert_outcomes(passed=7, errors=2)
    result.stdout.fnmatch_lines(["ERROR *test_uses_the_fixture*", "ERROR *test_is_marked*"])


def test_strict_checks_every_test(project: pytest.Pytester) -> None:
    project.makepyfile(MIXED)
    result = project.runpytest_subprocess("-o", "loopwatch=strict")
    result.assert_outcomes(passed=7, errors=4)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["- 1 value of 'things' on an event loop that was closed*", "- 1 loop conflict: redis, closed_loop*"]
    )


FIXTURES = """
    import asyncio
    import pytest
    import loopwatch

    engine = loopwatch.create_async_engine("sqlite+aiosqlite:///app.db", name="app")

    async def connect():
        return await engine.connect()

    @pytest.fixture(scope="module")
    def runner():
        with asyncio.Runner() as runner:
            yield runner

    @pytest.fixture(scope="module")
    def held(runner):  # by the module: no leak of the first test
        connection = runner.run(connect())
        yield connection
        runner.run(connection.close())

    @pytest.fixture
    def connection(runner):
        connection = runner.run(connect())
        yield connection
        runner.run(connection.close())

    def test_module(held): pass
    def test_function(connection, held): pass
    kept = []
    def test_leaks(held, runner):
        kept.append(runner.run(connect()))
    def test_innocent(held): pass
    def test_last(held, runner):
        runner.run(kept.pop().close())
"""


def test_what_fixtures_hold_and_end_is_no_leak(project: pytest.Pytester) -> None:
    project.makepyfile(FIXTURES)
    result = project.runpytest_subprocess("-o", "loopwatch=strict", "-v")
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_leaks*", "*", "- 1 connection of 'app' still checked out*"]
    )


ON_A_SERVER = """
    import pytest
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import async_sessionmaker
    import loopwatch

    engine = loopwatch.create_async_engine({url!r}, name="app")
    sessions = async_sessionmaker(engine)

    async def test_gives_back():
        async with sessions() as session:
            await session.execute(text("SELECT 1"))

    kept = []
    async def test_keeps():
        session = sessions()
        await session.execute(text("SELECT 1"))
        kept.append(session)
"""


def test_with_postgresql_and_pytest_asyncio(project: pytest.Pytester, database_url: str) -> None:
    project.makepyfile(ON_A_SERVER.format(url=database_url))
    project.makeini("[pytest]\nasyncio_mode = auto\nloopwatch = strict\n")
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_keeps*", "*", "- 1 value of 'app' on an event loop*"])


def test_another_mode_is_refused(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-o", "loopwatch=yes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the ini option loopwatch is *: write one of off, strict*"])


def test_where_nobody_asks_it_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n    print(*[name for name in sys.modules if name.startswith('loopwatch')])\n"
    )
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-s", "-p", "no:asyncio", "--rootdir", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert sorted(done.stdout.splitlines()[0].split()) == ["loopwatch", "loopwatch._version", "loopwatch.pytest_plugin"]
