"""A process that may start no more threads (a container's limit, an interpreter that ends) works on, unwatched."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loopwatch.runner import close_loops, run_async
from loopwatch.soft_limit import SoftLimit
from loopwatch.stalls import Stalls
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS


@pytest.fixture
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    close_loops()

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    yield lambda: monkeypatch.setattr(_thread, "start_new_thread", refuse)
    monkeypatch.undo()
    close_loops()


class ExceededError(Exception):
    """What billiard's handler raises."""


def billiards(*_: object) -> None:
    raise ExceededError


@pytest.fixture
def _handler_stays() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


async def _answer() -> int:
    return 42


def test_a_run_goes_on_though_nobody_looks_for_stalls(
    no_more_threads: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stalls = Stalls()
    stalls.threshold = 1.0
    monkeypatch.setattr("loopwatch.loop_lag.STALLS", stalls)
    before = STATS.value(catalogue.TELEMETRY_DROPPED, ("error",))
    no_more_threads()
    assert run_async(_answer()) == 42
    assert STATS.value(catalogue.TELEMETRY_DROPPED, ("error",)) == before + 1
    assert stalls._permit == [True]  # whoever comes next may try again


@pytest.mark.usefixtures("_handler_stays")
def test_a_soft_limit_still_cancels(no_more_threads: Callable[[], None]) -> None:
    async def long() -> None:
        signal.raise_signal(signal.SIGUSR1)
        await asyncio.sleep(60)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        task = loop.create_task(long())
        no_more_threads()
        with pytest.raises(ExceededError), SoftLimit(loop, task, billiards, sys._getframe()):
            loop.run_until_complete(task)


@pytest.mark.usefixtures("_handler_stays")
def test_a_limit_that_comes_when_the_loop_is_closed_is_told_at_the_end() -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(_answer())
    limit = SoftLimit(loop, task, billiards, sys._getframe())
    limit.__enter__()
    loop.run_until_complete(task)
    loop.close()  # as that of a run whose leftovers would not end
    signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(ExceededError):
        limit.__exit__(None, None, None)
