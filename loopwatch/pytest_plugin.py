"""The pytest plugin ``loopwatch``: a test fails when it leaves behind what `loopwatch.testing` finds.

It is off unless it is asked for: in every test by the ini option ``loopwatch = strict``, in one by the fixture
``loopwatch_check`` or ``@pytest.mark.loopwatch``; ``@pytest.mark.loopwatch("off")`` leaves one out.

pytest loads this in every environment that has loopwatch installed: until a test asks, nothing else is imported.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from loopwatch.testing import LeakCheck

    Check: TypeAlias = LeakCheck | None

_MODES = ("off", "strict")
_check = pytest.StashKey["Check"]()
"""Of the running test, if it asked. Kept on the configuration: the fixtures of a module do not know the test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "loopwatch", "strict: each test fails when it leaks a connection or has a loop conflict", default="off"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", 'loopwatch(mode="strict"): whether this test may leave connections or loops behind ("off")'
    )
    _checked(config.getini("loopwatch"), "the ini option loopwatch")


@pytest.fixture
def loopwatch_check() -> None:
    """The test that uses this fails when it leaks, as with ``loopwatch = strict``."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_check] = None
    if _is_wanted(item):
        from loopwatch.testing import LeakCheck

        item.config.stash[_check] = LeakCheck()


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, None, None]:
    """What a module's or session's fixture holds is not a leak of the test that came first."""
    check = request.config.stash.get(_check, None) if fixturedef.scope != "function" else None
    if check is None:
        yield
    else:
        with check.allowing_checkouts():
            yield


# Last, so after the fixtures are torn down: a loop or a connection that a fixture ends is no leak. No hookwrapper: when
# the teardown itself fails, that is what is to be told.
@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    check = item.config.stash.get(_check, None)
    if check is not None and (problems := check.problems()):
        from loopwatch.testing import LeakError

        # Without a traceback, which would be ours and say nothing of the test.
        pytest.fail(str(LeakError(problems)), pytrace=False)


def _is_wanted(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("loopwatch")
    if marker is not None:
        return _checked(marker.args[0] if marker.args else "strict", "the marker loopwatch")
    return item.config.getini("loopwatch") == "strict" or "loopwatch_check" in getattr(item, "fixturenames", ())


def _checked(mode: object, what: str) -> bool:
    """Whether the mode is ``strict``."""
    if mode not in _MODES:
        raise pytest.UsageError(f"{what} is {mode!r}: write one of {', '.join(_MODES)}")
    return mode == "strict"
