"""`run_async` at the edges: a signal before its loop runs, a coroutine that heeds nothing, the end of a script."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator

import pytest

from loopwatch.runner import close_loops, run_async


@pytest.fixture(autouse=True)
def _loops_end() -> Iterator[None]:
    yield
    close_loops()


def _serving() -> threading.Thread:
    """The thread of the shared loop."""
    (thread,) = [one for one in threading.enumerate() if one.name == "loopwatch-loop"]
    return thread


def _in_a_thread(coroutine: Coroutine[object, object, None]) -> tuple[threading.Thread, list[BaseException]]:
    """Runs it in a thread, and what it raised there."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            run_async(coroutine)
        except BaseException as error:  # noqa: BLE001  # a CancelledError, which the test looks at
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


class LimitError(Exception):
    """What a signal's handler raises."""


def test_a_signal_before_the_loop_runs_leaves_nothing_for_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    async def work(name: str) -> None:
        log.append(name)
        await asyncio.sleep(0)

    def interrupted() -> None:
        raise LimitError  # as billiard's handler does, wherever the main thread is

    with monkeypatch.context() as patched:
        patched.setattr("loopwatch.runner.soft_limit_handler", interrupted)
        with pytest.raises(LimitError):
            run_async(work("first"))
    run_async(work("second"))
    assert log == ["second"]


def test_closing_lets_the_caller_of_a_coroutine_go_that_heeds_no_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for ever keeps the process from ending."""
    monkeypatch.setattr("loopwatch.runner.CLOSE_TIMEOUT", 0.05)
    started = threading.Event()
    tasks: list[asyncio.Task[None]] = []

    async def stubborn() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        started.set()
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
            except GeneratorExit:
                return

    thread, raised = _in_a_thread(stubborn())
    assert started.wait(60)
    serving = _serving()
    close_loops()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(raised[0], asyncio.CancelledError)
    serving.join(60)
    assert not serving.is_alive()
    # The coroutine of the closed loop is ours to end: asyncio would complain of a pending task.
    tasks[0].get_coro().close()  # type: ignore[union-attr, unused-ignore]
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("shared", [False, True])
def test_at_a_scripts_end_its_loops_end(shared: bool) -> None:
    script = f"""
import loopwatch

things = loopwatch.PerLoop(list, dispose=lambda thing: print("disposed of"))

async def use():
    things.get()

loopwatch.run_async(use(), shared={shared})
print("over")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["over", "disposed of", ""]
    assert done.stderr == ""


def test_closing_lets_the_caller_of_a_coroutine_go_that_blocks_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwatch.runner.CLOSE_TIMEOUT", 0.05)
    started, over = threading.Event(), threading.Event()

    async def blocking() -> None:
        started.set()
        over.wait(200)

    thread, raised = _in_a_thread(blocking())
    try:
        assert started.wait(60)
        serving = _serving()
        close_loops()
        thread.join(60)
        assert not thread.is_alive()
    finally:
        over.set()
    serving.join(60)  # it ends as soon as it can, and closes its loop
    assert not serving.is_alive()
    assert isinstance(raised[0], asyncio.CancelledError)
