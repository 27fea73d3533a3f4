"""Whole test runs of others: the pytest plugin, and `PerLoop` on the loops of pytest-asyncio and anyio's plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

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


UNDER_PYTEST = """
    import asyncio
    import pytest
    from loopwatch import PerLoop

    ended = []
    async def end(value):
        ended.append(asyncio.get_running_loop())
    things = PerLoop(object, dispose=end)
    seen = {}

    def note(name):
        seen.setdefault(name, set()).add(things.get())  # itself: an id is used again

    async def test_function_1(): note("function")
    async def test_function_2(): note("function")

    @pytest.mark.asyncio(loop_scope="module")
    async def test_module_1(): note("module")
    @pytest.mark.asyncio(loop_scope="module")
    async def test_module_2(): note("module")

    @pytest.mark.asyncio(loop_scope="session")
    async def test_session_1(): note("session")
    @pytest.mark.asyncio(loop_scope="session")
    async def test_session_2(): note("session")

    @pytest.fixture(params=["asyncio"])
    def anyio_backend(request): return request.param
    @pytest.mark.anyio
    async def test_anyio(): note("anyio")

    def test_values_were_as_long_lived_as_their_loops():
        lived = {name: len(values) for name, values in seen.items()}
        assert lived == {"function": 2, "module": 1, "session": 1, "anyio": 1}
        asyncio.run(get())  # sweeps
        assert len(things) == 2  # the module's and the session's

    async def get():
        things.get()
"""


def test_under_pytest_asyncio_and_anyio_s_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_loops=UNDER_PYTEST,
        test_zz_afterwards="""
            from test_loops import ended, things
            async def test_the_module_has_ended():
                assert len(things) == 1  # the session's
                assert len(ended) == 5
        """,
    )
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=9)
