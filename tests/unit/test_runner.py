"""`run_async`: which loop, what it raises, and that a finished run leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from loopwatch.conflicts import classify
from loopwatch.errors import ConfigurationError, RunningLoopError
from loopwatch.per_loop import PerLoop
from loopwatch.runner import close_loops, run_async

# Python 3.12 warns of what is tested here.
forks_with_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


@pytest.fixture(autouse=True)
def _loops_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A loop that a loaded machine keeps from its end is waited for.
    monkeypatch.setattr("loopwatch.runner.CLOSE_TIMEOUT", 60.0)
    monkeypatch.setattr("loopwatch.runner.CANCEL_TIMEOUT", 60.0)
    yield
    close_loops()


async def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def _thread() -> str:
    return threading.current_thread().name


def _in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def _in_loop(function: Callable[[], Any]) -> Any:
    async def call() -> Any:
        return function()

    return asyncio.run(call())


def test_the_main_thread_keeps_one_loop_of_its_own() -> None:
    assert run_async(_loop()) is run_async(_loop)
    assert run_async(_thread()) == threading.main_thread().name


def test_other_threads_share_one_loop_in_a_background_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        loops = {future.result() for future in [pool.submit(lambda: run_async(_loop)) for _ in range(20)]}
        threads = {future.result() for future in [pool.submit(lambda: run_async(_thread)) for _ in range(20)]}
    assert len(loops) == 1
    assert threads == {"loopwatch-loop"}
    assert loops != {run_async(_loop())}
    assert loops == {run_async(_loop, shared=True)}


@pytest.mark.parametrize("shared", [False, True])
def test_context_variables_reach_the_coroutine(shared: bool) -> None:
    async def read() -> str:
        return variable.get()

    token = variable.set("task 7")
    try:
        assert run_async(read(), shared=shared) == "task 7"
    finally:
        variable.reset(token)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError(), SystemExit(3)])
def test_what_the_coroutine_raises_is_raised_and_the_loop_goes_on(shared: bool, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    before = run_async(_loop, shared=shared)
    with pytest.raises(type(error)):
        run_async(fail(), shared=shared)
    assert run_async(_loop, shared=shared) is before


@pytest.mark.parametrize("shared", [False, True])
def test_a_timeout_cancels(shared: bool) -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cleaned up")

    with pytest.raises(TimeoutError):
        run_async(long(), timeout=0.01, shared=shared)
    assert ended == ["cleaned up"]


def test_inside_a_running_loop_it_says_what_to_write() -> None:
    with pytest.raises(RunningLoopError, match=r"await f\(\.\.\.\).*shared=True"):
        _in_loop(lambda: run_async(_loop()))


def test_inside_a_running_loop_the_shared_loop_can_be_asked_for() -> None:
    assert _in_loop(lambda: run_async(_thread(), shared=True)) == "loopwatch-loop"


def test_the_shared_loop_never_waits_for_itself() -> None:
    async def nested() -> object:
        return run_async(_loop(), shared=True)

    with pytest.raises(RunningLoopError, match="await"):
        run_async(nested(), shared=True)


def test_a_run_may_use_threads_that_run_coroutines() -> None:
    async def outer() -> str:
        orphan = asyncio.create_task(asyncio.sleep(60))
        inner = await asyncio.to_thread(run_async, _thread)
        orphan.cancel()
        return inner

    assert run_async(outer()) == "loopwatch-loop"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        run_async(_loop(), timeout=0)
    with pytest.raises(TypeError, match="coroutine or a function"):
        run_async(42)  # type: ignore[arg-type]


async def _generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("subject", [_generator, _generator()], ids=["function", "object"])
def test_an_async_generator_is_refused(shared: bool, subject: Any) -> None:
    with pytest.raises(TypeError, match="an async generator: write a coroutine function with `async for`"):
        run_async(subject, shared=shared)


@pytest.mark.parametrize("shared", [False, True])
def test_a_function_that_makes_nothing_to_await_is_refused(shared: bool) -> None:
    with pytest.raises(TypeError, match=r"run_async\(\) was given .*, which made 'int'"):
        run_async(lambda: 42, shared=shared)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("shared", [False, True])
def test_a_coroutine_that_was_awaited_already_is_refused(shared: bool) -> None:
    coroutine = _loop()
    run_async(coroutine)
    with pytest.raises(RuntimeError, match="already awaited"):
        run_async(coroutine, shared=shared)


@pytest.mark.parametrize("shared", [False, True])
def test_a_task_or_a_future_of_another_loop_is_refused(shared: bool) -> None:
    other = asyncio.new_event_loop()
    future: asyncio.Future[None] = other.create_future()
    task = other.create_task(asyncio.sleep(0))
    for foreign in (future, task):
        with pytest.raises(TypeError, match="belongs to the loop that made it: pass the coroutine itself"):
            run_async(foreign, shared=shared)  # type: ignore[arg-type]
        error: pytest.ExceptionInfo[BaseException]
        with pytest.raises((RuntimeError, ValueError), match="loop") as error:
            run_async(lambda foreign=foreign: foreign, shared=shared, timeout=10)  # type: ignore[misc]
        conflict = classify(error.value)
        assert conflict is not None
        assert conflict.kind == "cross_loop"
    other.run_until_complete(task)
    other.close()


@pytest.mark.parametrize("shared", [False, True])
def test_after_the_loops_were_closed_it_makes_new_ones(shared: bool) -> None:
    before = run_async(_loop, shared=shared)
    close_loops()
    close_loops()
    assert before.is_closed()
    after = run_async(_loop, shared=shared)
    assert after is not before
    assert not after.is_closed()


@pytest.mark.parametrize("shared", [False, True])
def test_closing_the_loops_inside_one_of_them_leaves_it_running(shared: bool) -> None:
    async def close() -> asyncio.AbstractEventLoop:
        close_loops()
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    assert run_async(close, shared=shared) is run_async(_loop, shared=shared)


@forks_with_threads
@pytest.mark.parametrize("shared", [False, True])
def test_in_a_child_that_was_forked_inside_a_coroutine_it_works(shared: bool) -> None:
    async def fork() -> int:
        pid = os.fork()
        if pid == 0:
            answer = 1
            try:
                loops = {run_async(_loop, timeout=30), run_async(_loop, timeout=30, shared=True)}
                answer = 0 if len(loops) == 2 and not loops & before else 2
            finally:
                os._exit(answer)
        return (await asyncio.to_thread(os.waitpid, pid, 0))[1]

    before = {run_async(_loop), run_async(_loop, shared=True)}
    assert run_async(fork(), shared=shared) == 0


@pytest.mark.parametrize("shared", [False, True])
def test_an_orphan_ends_with_its_run(shared: bool) -> None:
    log: list[str] = []

    async def orphan() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            log.append("cancelled")
            raise

    keep: list[object] = []

    async def leave() -> None:
        keep.append(asyncio.create_task(orphan()))
        await asyncio.sleep(0)

    run_async(leave(), shared=shared)
    assert log == ["cancelled"]


@pytest.mark.parametrize("shared", [False, True])
def test_an_orphan_that_is_about_to_end_may_end(shared: bool) -> None:
    log: list[str] = []

    async def closing() -> None:
        await asyncio.sleep(0.005)
        log.append("closed")

    keep: list[object] = []

    async def leave() -> None:
        keep.append(asyncio.create_task(closing()))

    run_async(leave(), shared=shared)
    assert log == ["closed"]


def test_a_loop_with_an_orphan_that_never_ends_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopwatch.leftovers.DRAIN_TIMEOUT", 0.05)
    monkeypatch.setattr("loopwatch.runner.CLOSE_TIMEOUT", 0.05)
    stop: list[bool] = []
    log: list[int] = []

    async def stubborn() -> None:
        while not stop:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
            log.append(1)

    keep: list[asyncio.Task[None]] = []

    async def leave() -> None:
        keep.append(asyncio.create_task(stubborn()))

    before = run_async(_loop())
    run_async(leave())
    seen = len(log)
    assert before.is_closed()
    assert run_async(_loop()) is not before
    run_async(asyncio.sleep(0.05))
    assert len(log) == seen
    assert "given up" in caplog.text
    stop.append(True)
    # The coroutine of the closed loop is ours to end: asyncio would complain of a pending task.
    keep[0].get_coro().close()
    keep[0]._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("how", ["break", "raise", "held"])
def test_an_async_generator_is_closed_with_its_run(shared: bool, how: str) -> None:
    """``async for session in get_session()`` is how many applications open a session."""
    log: list[str] = []
    held: list[object] = []

    async def sessions() -> AsyncIterator[str]:
        log.append("begin")
        try:
            yield "session"
        finally:
            await asyncio.sleep(0)
            log.append("closed")

    async def use() -> None:
        generator = sessions()
        if how == "held":
            held.append(generator)
        async for _ in generator:
            if how == "raise":
                raise ValueError
            break

    try:
        run_async(use(), shared=shared)
    except ValueError as error:
        held.append(error)  # its traceback holds the generator, as Celery does until it has stored the result
    assert log == ["begin", "closed"]


@pytest.mark.parametrize("shared", [False, True])
def test_values_of_per_loop_outlive_the_run_and_end_with_the_loop(shared: bool) -> None:
    disposed: list[object] = []
    things = PerLoop(object, dispose=disposed.append)

    async def use() -> object:
        return things.get()

    first = run_async(use(), shared=shared)
    assert run_async(use(), shared=shared) is first
    assert disposed == []
    close_loops()
    assert disposed == [first]


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_value_of_per_loop_needs_outlives_the_run_too(shared: bool) -> None:
    """A client with a reading task and an async context manager, made by an asynchronous factory."""
    log: list[str] = []

    @asynccontextmanager
    async def connection() -> AsyncIterator[str]:
        try:
            yield "connection"
        finally:
            log.append("closed")

    async def read() -> None:
        while True:
            await asyncio.sleep(0.001)
            log.append("read")

    class Client:
        async def open(self) -> Client:
            self.stack = connection()
            await self.stack.__aenter__()
            self.reader = asyncio.create_task(read())
            return self

        async def close(self) -> None:
            self.reader.cancel()
            await self.stack.__aexit__(None, None, None)

    clients = PerLoop(lambda: Client().open(), dispose=Client.close)

    async def use() -> int:
        await clients.aget()
        await asyncio.sleep(0.02)
        return len(log)

    first = run_async(use(), shared=shared)
    assert run_async(use(), shared=shared) > first > 0
    assert "closed" not in log
    close_loops()
    assert log.count("closed") == 1


@forks_with_threads
def test_a_child_never_uses_an_inherited_loop() -> None:
    own, shared = run_async(_loop()), run_async(_loop(), shared=True)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            mine = run_async(_loop(), timeout=60), run_async(_loop(), timeout=60, shared=True)
            close_loops()
            fresh = not {*mine} & {own, shared} and not own.is_closed()
            os.write(write, b"fresh" if fresh else b"inherited")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"fresh"
    os.close(read)
    os.close(write)
    assert run_async(_loop()) is own
    assert run_async(_loop(), shared=True) is shared


def test_an_interrupted_wait_cancels_the_coroutine() -> None:
    """A greenlet killed, Ctrl-C: what is raised in the waiting thread ends its coroutine before it leaves."""
    import signal

    log: list[str] = []

    class InterruptedWaitError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise InterruptedWaitError

    async def long() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
            await asyncio.sleep(60)
        finally:
            log.append("cleaned up")

    previous = signal.signal(signal.SIGUSR2, interrupt)
    try:
        with pytest.raises(InterruptedWaitError):
            run_async(long(), shared=True)
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert log == ["cleaned up"]


def test_closing_ends_what_runs_on_the_shared_loop() -> None:
    started = threading.Event()
    log: list[str] = []

    async def long() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            log.append("cleaned up")

    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            run_async(long())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    close_loops()
    thread.join(60)
    assert not thread.is_alive()
    assert log == ["cleaned up"]


def test_many_runs_leave_no_tasks_threads_or_memory_of_themselves() -> None:
    async def work() -> None:
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    run_async(work())
    before = threading.active_count()
    loop = run_async(_loop())
    deadline = time.monotonic() + 60
    for _ in range(500):
        run_async(work())
        assert time.monotonic() < deadline
    assert threading.active_count() <= before  # fewer, where a thread of an earlier test has ended meanwhile
    assert asyncio.all_tasks(loop) == set()
