"""Misuse gets an error that says what to write instead."""

from __future__ import annotations

import asyncio
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy
from celery import Celery
from sqlalchemy.exc import InvalidRequestError

import loopwatch


async def nothing() -> None:
    return None


async def within_a_loop(function: Callable[[], object]) -> None:
    function()


def things() -> loopwatch.PerLoop[list[int]]:
    return loopwatch.PerLoop(list, name="things")


def instrument_twice() -> None:
    app = Celery("app", broker="memory://", set_as_current=False)
    loopwatch.instrument(app, interval=5)
    loopwatch.instrument(app, interval=10)


def make() -> Any:
    return nothing()


Misuse = tuple[Callable[[], object], type[Exception] | tuple[type[Exception], ...], str]

OUTSIDE: dict[str, Misuse] = {
    "get() outside a loop": (
        lambda: things().get(),
        RuntimeError,
        r"no event loop is running, so <PerLoop 'things' .*use it inside a coroutine, .*loopwatch\.run_async\(\.\.\.\)",
    ),
    "PerLoop of a coroutine": (
        lambda: loopwatch.PerLoop(nothing()),  # type: ignore[call-overload]
        TypeError,
        r"leave out the brackets and write `nothing` instead of `nothing\(\)`",
    ),
    "dispose= is a coroutine": (
        lambda: loopwatch.PerLoop(list, dispose=nothing()),  # type: ignore[call-overload]
        TypeError,
        r"a function as dispose=, not a coroutine: leave out the brackets",
    ),
    "run_async of no coroutine": (
        lambda: loopwatch.run_async(42),  # type: ignore[arg-type]
        TypeError,
        r"a coroutine or a function that makes one, not 'int'",
    ),
    "run_async without time": (
        lambda: loopwatch.run_async(nothing(), timeout=0),
        loopwatch.ConfigurationError,
        r"seconds above 0, or None for no limit",
    ),
    "instrument twice": (instrument_twice, loopwatch.ConfigurationError, r"instrument\(\) was called twice"),
    "a synchronous driver": (
        lambda: loopwatch.create_async_engine("sqlite:///app.db"),
        (InvalidRequestError, loopwatch.ConfigurationError),
        "async",
    ),
    "observe of no engine": (
        lambda: loopwatch.observe("postgresql://localhost/app"),  # type: ignore[type-var]
        TypeError,
        r"takes an Engine or an AsyncEngine, not 'str'",
    ),
    "a budget that cannot be met": (
        lambda: loopwatch.budget(100, processes=60, surge=2),
        loopwatch.BudgetError,
        r"start fewer processes \(or a smaller surge\), raise the server's limit to at least 130",
    ),
    "a role without a name": (
        lambda: loopwatch.budget(100, processes={"api": 1, "worker": 2}, weights={"api": 3}).pool_options(),
        loopwatch.ConfigurationError,
        r"name one of 'api', 'worker'",
    ),
    "report under a host's name": (
        lambda: loopwatch.report(Celery("app", set_as_current=False), name="api@host").__enter__(),
        loopwatch.ConfigurationError,
        r"a name such as 'api', without the host",
    ),
    "http_client with a transport": (
        lambda: loopwatch.http_client(transport=None),
        loopwatch.ConfigurationError,
        r"leave out transport=",
    ),
}

NOT_INSTALLED: dict[str, tuple[str, Misuse]] = {
    "the driver that a URL names": (
        "asyncpg",
        (
            lambda: loopwatch.create_async_engine("postgresql+asyncpg://localhost/app"),
            (ModuleNotFoundError, loopwatch.ConfigurationError),
            r"^postgresql\+asyncpg:// means the driver asyncpg, which is not installed: pip install asyncpg$",
        ),
    ),
    "a library that no extra has": (
        "httpx2",
        (
            lambda: loopwatch.http_client(library="httpx2"),
            loopwatch.ConfigurationError,
            r"not installed: pip install httpx2$",
        ),
    ),
}

INSIDE: dict[str, Misuse] = {
    "run_async inside a loop": (lambda: loopwatch.run_async(nothing()), loopwatch.RunningLoopError, r"await"),
    "aget forgotten": (
        lambda: loopwatch.PerLoop(make).get(),
        TypeError,
        r"is asynchronous: write `await \.\.\.\.aget\(\)` instead of `\.get\(\)`",
    ),
}


def check(misuse: Misuse) -> None:
    use, kind, says = misuse
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a coroutine "was never awaited" would hide what is wrong
        with pytest.raises(kind, match=re.compile(says, re.DOTALL)):
            use()


@pytest.mark.parametrize("what", OUTSIDE)
def test_outside_a_loop(what: str) -> None:
    check(OUTSIDE[what])


@pytest.mark.parametrize("what", NOT_INSTALLED)
def test_without_a_package(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, misuse = NOT_INSTALLED[what]
    monkeypatch.setitem(sys.modules, package, None)
    check(misuse)


@pytest.mark.skipif(sqlalchemy.__version__ < "2.1", reason="until then it means psycopg2, which blocks")
def test_a_driver_that_a_url_only_means_and_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ModuleNotFoundError, match=r"name the one that you have, such as postgresql\+asyncpg://"):
        loopwatch.create_async_engine("postgresql://localhost/app")


@pytest.mark.parametrize("what", INSIDE)
def test_inside_a_loop(what: str) -> None:
    asyncio.run(within_a_loop(lambda: check(INSIDE[what])))


def test_a_loop_that_is_closed_is_told_by_asyncio_and_costs_no_entry() -> None:
    loop, lists = asyncio.new_event_loop(), things()
    loop.close()

    async def use() -> None:
        lists.get()

    coroutine = use()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_until_complete(coroutine)
    coroutine.close()
    assert len(lists) == 0
