"""Celery's soft time limit inside `run_async`, with billiard's own handler and real signals."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import signal
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import TypeVar

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import soft_timeout_sighandler

from loopwatch.runner import close_loops, run_async

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _pool_child() -> Iterator[None]:
    """This process's main thread as billiard leaves it in a pool child."""
    previous = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    yield
    assert signal.getsignal(signal.SIGUSR1) is soft_timeout_sighandler, "billiard's handler was not put back"
    signal.signal(signal.SIGUSR1, previous)
    close_loops()


def _run(coroutine: Coroutine[object, object, T], limit: float = 0.02, *, shared: bool = False) -> T:
    """Runs it with a soft limit (seconds) that begins once it runs."""

    def tell() -> None:
        while inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            time.sleep(0)
        time.sleep(limit)
        os.kill(os.getpid(), signal.SIGUSR1)

    teller = threading.Thread(target=tell)

    async def limited() -> T:
        teller.start()
        return await coroutine

    try:
        return run_async(limited(), shared=shared)
    finally:
        teller.join()


@pytest.fixture
def _no_insisting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What yields to its loop is not interrupted in place, however long a loaded machine keeps it from that."""
    monkeypatch.setattr("loopwatch.soft_limit.GRACE", 600.0)


async def _busy() -> None:
    """Spends its time in callbacks and tasks whose exceptions nobody sees: where the signal's would be swallowed."""
    loop = asyncio.get_running_loop()
    while True:
        loop.call_soon(sum, range(5_000))
        await asyncio.gather(*(_spin() for _ in range(3)), return_exceptions=True)


async def _spin() -> int:
    await asyncio.sleep(0)
    return sum(number for number in range(500))


def test_a_busy_loop_always_sees_the_limit() -> None:
    for _ in range(200):
        with pytest.raises(SoftTimeLimitExceeded):
            _run(_busy(), random.uniform(0.0, 0.01))


@pytest.mark.usefixtures("_no_insisting")
def test_the_coroutine_has_ended_before_the_exception_leaves() -> None:
    log: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            log.append("connection returned")

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        _run(work())
    assert log == ["connection returned"]
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


def test_blocking_code_is_interrupted_where_it_blocks() -> None:
    log: list[str] = []

    async def block() -> None:
        try:
            time.sleep(60)  # noqa: ASYNC251
            log.append("slept on")
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    with pytest.raises(SoftTimeLimitExceeded):
        _run(block())
    assert log == ["cleaned up"]


def test_a_coroutine_that_blocks_again_and_again_is_interrupted() -> None:
    async def block() -> None:
        while True:
            time.sleep(0.5)  # noqa: ASYNC251
            await asyncio.sleep(0)

    with pytest.raises(SoftTimeLimitExceeded):
        _run(block())


def test_a_callback_that_blocks_does_not_swallow_the_limit() -> None:
    """What the signal raised in a callback would be asyncio's to log, and the task would never hear of it."""

    async def wait() -> str:
        asyncio.get_running_loop().call_soon(time.sleep, 0.6)
        try:
            async with asyncio.timeout(20):
                await asyncio.Event().wait()
        except TimeoutError:
            return "the limit was lost"
        return ""

    with pytest.raises(SoftTimeLimitExceeded):
        _run(wait(), limit=0.1)


def test_what_blocks_in_a_greenlet_is_interrupted() -> None:
    """SQLAlchemy's ``run_sync`` runs synchronous code on a stack of its own."""
    from sqlalchemy.util import greenlet_spawn

    async def block() -> None:
        await greenlet_spawn(time.sleep, 30)

    with pytest.raises(SoftTimeLimitExceeded):
        _run(block())


def test_the_limit_can_be_handled_where_it_blocks() -> None:
    async def block() -> str:
        try:
            time.sleep(30)  # noqa: ASYNC251
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.3)  # not cancelled a second time
            return "handled"
        return "never"

    assert _run(block()) == "handled"


@pytest.mark.usefixtures("_no_insisting")
def test_the_limit_can_be_handled_as_a_cancellation() -> None:
    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "handled"
        return "never"

    assert _run(work()) == "handled"


def test_no_signal_of_ours_reaches_what_comes_after() -> None:
    """The repeated signal is ours to receive, however close to the end of the run it is sent."""

    async def block(seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251

    for trial in range(12):
        # Ends around the moment of the first repetition, 0.2 s after the limit.
        with pytest.raises(SoftTimeLimitExceeded):
            _run(block(0.205 + trial * 0.001), 0.01)
        time.sleep(0.01)  # where a signal too late would raise


def test_a_cancellation_that_is_not_the_limits_stays_one() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_async(cancelled())


def test_on_the_shared_loop_the_limit_cancels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwatch.runner.CANCEL_TIMEOUT", 60.0)
    log: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log.append("connection returned")

    with pytest.raises(SoftTimeLimitExceeded):
        _run(work(), shared=True)
    assert log == ["connection returned"]


def test_another_handler_is_left_alone() -> None:
    calls: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _frame: calls.append(number))

    async def send() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.01)

    try:
        run_async(send())
    finally:
        signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    assert calls == [signal.SIGUSR1]
