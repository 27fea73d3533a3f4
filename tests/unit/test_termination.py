"""The signal that ends a pool child, inside `run_async`, with billiard's own handlers and real signals."""

# What billiard's stubs do not know.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.common import _shutdown_cleanup, clear_terminate_handler_fired, reset_signals

from loopwatch.runner import close_loops, run_async

NUMBERS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _pool_child() -> Iterator[None]:
    """This process's main thread as billiard leaves it in a pool child."""
    close_loops()
    before = {number: signal.getsignal(number) for number in (*NUMBERS, signal.SIGUSR1)}
    for number in NUMBERS:  # a shell has its background processes ignore some, and billiard leaves those alone
        signal.signal(number, signal.SIG_DFL)
    reset_signals()
    yield
    close_loops()
    for number, handler in before.items():
        signal.signal(number, handler)
    clear_terminate_handler_fired()


@pytest.fixture
def _no_insisting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What yields to its loop is not interrupted in place, however long a loaded machine keeps it from that."""
    monkeypatch.setattr("loopwatch.termination.GRACE", 600.0)


def _send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("_no_insisting")
@pytest.mark.parametrize("number", NUMBERS)
def test_the_coroutine_has_ended_before_the_exit_leaves(number: int) -> None:
    log: list[str] = []

    async def work() -> None:
        _send(number)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            log.append("connection returned")
            raise

    with pytest.raises(SystemExit) as caught:
        run_async(work())
    assert caught.value.code == -(256 - number)
    assert log == ["connection returned"]
    assert signal.getsignal(number) is signal.SIG_DFL  # as billiard leaves it: the next one ends the process


@pytest.mark.usefixtures("_no_insisting")
def test_a_callback_that_swallows_exceptions_does_not_swallow_the_exit() -> None:
    async def work() -> None:
        def swallow() -> None:
            try:
                _send()
                sum(range(10_000))
            except SystemExit:
                log.append("swallowed")

        asyncio.get_running_loop().call_soon(swallow)
        await asyncio.sleep(60)

    log: list[str] = []
    with pytest.raises(SystemExit):
        run_async(work())
    assert log == []


def test_blocking_code_is_interrupted_where_it_blocks() -> None:
    log: list[str] = []

    async def block() -> None:
        try:
            _send()
            time.sleep(60)  # noqa: ASYNC251
        except SystemExit:
            await asyncio.sleep(0.01)  # not told a second time
            log.append("connection returned")
            raise

    with pytest.raises(SystemExit):
        run_async(block())
    assert log == ["connection returned"]


def test_without_a_thread_to_interrupt_what_blocks_the_exit_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    async def work() -> None:
        try:
            _send()
            time.sleep(60)  # noqa: ASYNC251
        except SystemExit:
            log.append("interrupted")
            raise

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def nothing() -> None: ...

    run_async(nothing())  # the loop's own threads have begun
    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    with pytest.raises(SystemExit):
        run_async(work())
    assert log == ["interrupted"]


def test_outside_a_run_the_exit_is_raised_at_once() -> None:
    async def nothing() -> None: ...

    run_async(nothing())
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


def test_a_wait_for_the_shared_loop_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwatch.runner.CANCEL_TIMEOUT", 60.0)
    log: list[str] = []

    async def work() -> None:
        try:
            _send()  # by the loop's thread: the main one waits for it
            await asyncio.sleep(60)
        finally:
            log.append("connection returned")

    async def nothing() -> None: ...

    run_async(nothing())
    with pytest.raises(SystemExit):
        run_async(work(), shared=True)
    assert log == ["connection returned"]


def test_the_end_of_the_loop_puts_billiards_handlers_back() -> None:
    async def handler() -> object:
        return signal.getsignal(signal.SIGTERM)

    assert run_async(handler()) is not _shutdown_cleanup
    close_loops()
    assert all(signal.getsignal(number) is _shutdown_cleanup for number in NUMBERS)


def test_handlers_of_others_are_left_alone() -> None:
    calls: list[int] = []

    def mine(number: int, _: object) -> None:
        calls.append(number)

    async def send() -> None:
        _send()
        await asyncio.sleep(0)

    signal.signal(signal.SIGTERM, mine)
    run_async(send())
    assert calls == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is mine

    close_loops()
    signal.signal(signal.SIGTERM, _shutdown_cleanup)
    run_async(asyncio.sleep(0))
    signal.signal(signal.SIGTERM, mine)  # the task's own
    close_loops()
    assert signal.getsignal(signal.SIGTERM) is mine
