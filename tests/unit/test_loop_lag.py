"""Loop lag and stalls: on real loops, asyncio's and uvloop's. No test asserts how fast the machine is."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop
from celery import Celery
from sqlalchemy.util import greenlet_spawn

import loopwatch
from loopwatch import loop_lag
from loopwatch.errors import ConfigurationError
from loopwatch.loop_lag import LoopLag
from loopwatch.runner import close_loops, run_async
from loopwatch.stalls import STALLS, Stalls, check_stall_threshold
from loopwatch.telemetry import catalogue, reporter
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.acceptance.workers import wait_until

# Python 3.12 warns of what is tested here.
forks_with_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
NewLoop = Callable[[], asyncio.AbstractEventLoop]
BLOCK = 0.25


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    STATS.reset()
    yield
    close_loops()
    STALLS.configure(None)
    wait_until(lambda: STALLS._permit == [True])  # the thread that looks would look at the next test, too
    STATS.reset()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    new: NewLoop = request.param
    loop = new()
    yield loop
    loop.close()


@pytest.fixture
def stalls(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings of stalls so far; they are logged past 0.1 s."""
    caplog.set_level(logging.INFO, logger="loopwatch")
    STALLS.configure(0.1)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def _beats() -> float:
    return STATS.value(catalogue.LOOP_LAG)


def _above(seconds: float) -> float:
    """Observations above a bucket's bound."""
    row = STATS.counters().get(catalogue.LOOP_LAG.wire_name, {}).get((), [])
    assert isinstance(row, list)
    return sum(row[catalogue.LOOP_LAG.buckets.index(seconds) + 1 : -1])


def _longest() -> float:
    value = STATS.gauges().get(catalogue.LOOP_LAG_MAX.wire_name, {}).get((), 0)
    assert not isinstance(value, list)
    return value


async def _beaten(times: int) -> None:
    before = _beats()
    deadline = time.monotonic() + 60
    while _beats() < before + times:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _block() -> None:
    time.sleep(BLOCK)


def _block_until(condition: Callable[[], object]) -> None:
    """Blocks the loop until somebody has seen it."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _stalls_in(function: str, stalls: Callable[[], list[str]]) -> list[str]:
    """The warnings of stalls in this function: a loaded machine may have stalled the loop elsewhere."""
    return [text for text in stalls() if f"in {function}\n" in text]


async def _go_on() -> None:
    """The loop goes on: what blocks it from now on is another stall than one that a loaded machine has just made, which
    has been looked at, or is about to be."""
    (lag,) = loop_lag._lags
    await _beaten(1)
    while lag.seen or lag.overdue(time.monotonic()) >= 0:  # noqa: ASYNC110  # a beat tells nobody
        await asyncio.sleep(0.01)


def test_what_blocks_the_loop_is_its_lag(loop: asyncio.AbstractEventLoop) -> None:
    lag = LoopLag(loop, "a loop")

    async def use() -> None:
        lag.start()
        lag.resume()
        await _beaten(2)
        _block()
        await _beaten(1)
        lag.stop()

    loop.run_until_complete(use())
    assert _above(0.1) >= 1
    assert _beats() >= 3  # what it counted outlives it
    row = STATS.counters()[catalogue.LOOP_LAG.wire_name][()]
    assert isinstance(row, list)
    assert row[-1] >= BLOCK - loop_lag.HEARTBEAT - 0.01


def test_the_longest_lag_is_seen_while_it_lasts_and_for_a_minute(loop: asyncio.AbstractEventLoop) -> None:
    lag = LoopLag(loop, "a loop")
    seen: list[float] = []

    async def use() -> None:
        lag.start()
        lag.resume()
        with ThreadPoolExecutor(1) as reader:
            reading = reader.submit(lambda: wait_until(lambda: _longest() > 0.1))
            _block_until(reading.done)
            seen.append(lag.highest(time.monotonic()))
        await _beaten(1)
        seen.append(lag.highest(time.monotonic()))
        seen.append(lag.highest(time.monotonic() + loop_lag.WINDOW + loop_lag._STEP))

    loop.run_until_complete(use())
    assert seen[0] > 0.1
    assert seen[1] > 0.1
    lag.pause()  # or, of a loop that runs, its lag goes on
    assert lag.highest(time.monotonic() + loop_lag.WINDOW + loop_lag._STEP) == 0
    lag.stop()
    assert catalogue.LOOP_LAG_MAX.wire_name not in STATS.gauges()


def test_the_pause_between_two_tasks_is_no_lag() -> None:
    def total() -> float:
        row = STATS.counters()[catalogue.LOOP_LAG.wire_name][()]
        assert isinstance(row, list)
        return row[-1]

    def counted() -> float:
        before = total()
        time.sleep(BLOCK)  # the worker waits for its next task
        run_async(_beaten(2))
        return total() - before

    run_async(asyncio.sleep(0))
    # Were the pause lag, it would be so each time; on a loaded machine there is lag of another kind, now and then.
    assert any(counted() < BLOCK - loop_lag.HEARTBEAT for _ in range(20))


def test_a_task_that_blocks_its_loop_to_its_end_is_late(loop: asyncio.AbstractEventLoop) -> None:
    """The beat that it delayed comes before the loop stops, or in the next run it would count for nothing."""
    lag = LoopLag(loop, "a loop")
    lag.start()

    async def compute() -> None:
        _block()

    lag.resume()
    loop.run_until_complete(compute())
    lag.pause()
    lag.stop()
    assert _above(0.1) >= 1


def test_a_watched_loop_ends_and_is_freed(loop: asyncio.AbstractEventLoop) -> None:
    lag = LoopLag(loop, "a loop")
    lag.start()
    assert loop.run_until_complete(asyncio.sleep(0, "ended")) == "ended"
    lag.stop()
    loop.close()
    reference = weakref.ref(lag)
    del lag
    gc.collect()
    assert reference() is None
    assert loop_lag._lags == []
    assert not [metric for metric, _, _ in STATS._cells if metric is catalogue.LOOP_LAG]


def test_the_runners_loops_are_watched_until_they_are_closed() -> None:
    run_async(asyncio.sleep(0))
    run_async(asyncio.sleep(0), shared=True)
    wait_until(lambda: len(loop_lag._lags) == 2, lambda: loop_lag._lags)
    close_loops()
    wait_until(lambda: not loop_lag._lags, lambda: loop_lag._lags)


def test_a_beat_holds_no_context_of_who_started_it() -> None:
    token = current_task.set(TaskContext("q", "app.first", "1"))
    try:
        run_async(asyncio.sleep(0))
        (lag,) = loop_lag._lags
        context: contextvars.Context = lag._timer._context  # type: ignore[union-attr]  # as asyncio keeps it
        assert list(context) == []
        assert run_async(_own_name()) == "app.first[1]"
    finally:
        current_task.reset(token)


async def _own_name() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


# ---------------------------------------------------------------- stalls
def test_a_stall_is_logged_once_with_the_stack_and_the_task(
    stalls: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def generate() -> None:
        await _go_on()
        _block_until(lambda: _stalls_in("generate", stalls))
        _block()  # still the same stall

    token = current_task.set(TaskContext("q", "app.generate", "7"))
    try:
        run_async(generate(), shared=True)
    finally:
        current_task.reset(token)
    (message,) = _stalls_in("generate", stalls)
    assert "shared event loop" in message
    assert "the task app.generate[7]" in message
    assert "in generate" in message
    assert "in _block_until" in message
    assert "run_forever" in message  # the whole stack
    wait_until(lambda: "goes on after" in caplog.text)
    run_async(generate_again(stalls), shared=True)
    wait_until(lambda: STATS.value(catalogue.LOOP_STALLS) == len(stalls()), stalls)
    assert len(_stalls_in("generate", stalls)) == len(_stalls_in("generate_again", stalls)) == 1


async def generate_again(stalls: Callable[[], list[str]]) -> None:
    await _go_on()
    _block_until(lambda: _stalls_in("generate_again", stalls))


def test_the_stack_goes_through_a_greenlet_to_who_waits_for_it(stalls: Callable[[], list[str]]) -> None:
    def synchronous_part() -> None:
        _block_until(lambda: _stalls_in("synchronous_part", stalls))

    async def flush() -> None:
        await _go_on()
        await greenlet_spawn(synchronous_part)

    run_async(flush(), shared=True)
    assert "in flush" in _stalls_in("synchronous_part", stalls)[0]


def test_a_task_alone_on_its_own_loop_may_compute(stalls: Callable[[], list[str]]) -> None:
    async def compute() -> None:
        (lag,) = loop_lag._lags
        _block_until(lambda: lag.seen)

    run_async(compute())
    assert stalls() == []
    assert STATS.value(catalogue.LOOP_STALLS) == 0
    assert _above(0.05) >= 1  # it is lag all the same


def test_on_an_own_loop_it_is_a_stall_while_another_task_waits(stalls: Callable[[], list[str]]) -> None:
    async def compute() -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        await _go_on()
        _block_until(lambda: _stalls_in("compute", stalls))
        other.cancel()

    run_async(compute())
    assert "the main thread's event loop" in _stalls_in("compute", stalls)[0]


def test_a_stall_that_no_thread_could_look_at_is_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if C code had kept the interpreter from the thread that looks.
    monkeypatch.setattr(Stalls, "look", lambda self, threshold: threshold)
    loop = asyncio.new_event_loop()
    lag = LoopLag(loop, "a loop")
    STALLS.configure(0.1)
    lag.start()
    lag.resume()
    loop.run_until_complete(asyncio.sleep(0))
    _block()
    loop.run_until_complete(_beaten(1))
    lag.stop()
    loop.close()
    assert "no other thread could see why" in caplog.text
    assert STATS.value(catalogue.LOOP_STALLS) >= 1  # more, where a loaded machine has stalled the beats that follow


def test_what_blocks_a_loop_that_went_on_under_the_look_is_looked_at(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Or nobody would be told of it: it passed for one that had been looked at."""
    lag, stalls = LoopLag(loop, "a loop"), Stalls()
    stalls.add(lag)
    stalls.threshold = 0.1  # only now: no thread looks, we do
    lag.start()
    lag.resume()
    _block()

    def read(_: object) -> str:
        lag.pause()
        return "the stack of something else"

    with monkeypatch.context() as patched:
        patched.setattr("loopwatch.stalls._told", read)
        stalls.look(0.1)
    assert caplog.text == ""
    lag.resume()
    _block()
    stalls.look(0.1)
    assert "in test_what_blocks_a_loop_that_went_on_under_the_look_is_looked_at\n" in caplog.text
    lag.stop()


def test_without_a_threshold_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []

    def look(self: Stalls, threshold: float) -> float:
        looked.append(threshold)
        return 0.01

    monkeypatch.setattr(Stalls, "look", look)
    STALLS.configure(None)
    run_async(_beaten(2))
    assert looked == []
    STALLS.configure(0.2)
    wait_until(lambda: looked == [0.2] * len(looked) and looked)
    close_loops()
    # The thread ends with the last loop: its permit is back, so that the next loop starts one anew.
    wait_until(lambda: STALLS._permit == [True])


@forks_with_threads
def test_after_a_fork_the_child_starts_anew(stalls: Callable[[], list[str]]) -> None:
    run_async(asyncio.sleep(0))
    run_async(asyncio.sleep(0), shared=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert loop_lag._lags == []
            assert STATS.value(catalogue.LOOP_LAG) == 0

            async def block() -> None:
                _block_until(stalls)

            run_async(block(), shared=True)
            code = 0
        finally:
            os._exit(code)
    watchdog = threading.Timer(60, os.kill, (pid, 9))
    watchdog.start()
    assert os.waitpid(pid, 0)[1] == 0
    watchdog.cancel()


@pytest.mark.parametrize("seconds", [0, -1, 0.01, float("nan"), float("inf")])
def test_a_threshold_that_cannot_be(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"stall_threshold=.*default 1\.0"):
        check_stall_threshold(seconds)
    with pytest.raises(ConfigurationError, match="stall_threshold"):
        loopwatch.instrument(Celery("stalls"), stall_threshold=seconds)
    with (
        pytest.raises(ConfigurationError, match="stall_threshold"),
        loopwatch.report(None, name="api", stall_threshold=seconds),
    ):
        pass


def test_a_reported_process_s_loop_is_watched_while_the_block_runs(stalls: Callable[[], list[str]]) -> None:
    async def serve() -> None:
        with reporter._watching("the event loop of 'api'", 0.2):
            assert STALLS.threshold == 0.2
            await _go_on()
            _block_until(lambda: _stalls_in("serve", stalls))
        assert STALLS.threshold == 0.1
        assert loop_lag._lags == []

    asyncio.run(serve())
    assert "the event loop of 'api'" in _stalls_in("serve", stalls)[0]


@pytest.mark.parametrize(
    ("patch", "sleep"),
    [
        ("from gevent import monkey; monkey.patch_all()", 'monkey.get_original("time", "sleep")'),
        ("import eventlet; eventlet.monkey_patch(thread=True, time=True)", 'eventlet.patcher.original("time").sleep'),
    ],
    ids=["gevent", "eventlet"],
)
def test_where_threads_are_greenlets_the_loop_itself_logs_the_stack_that_was_seen(patch: str, sleep: str) -> None:
    """Not the native thread that looked: it must not wait for a lock of theirs."""
    code = f"""
{patch}
import asyncio, logging, threading, time
from loopwatch.loop_lag import LoopLag
from loopwatch.stalls import STALLS, Stalls

threads = []

class Handler(logging.Handler):
    def emit(self, record):
        threads.append(threading.get_native_id())
        print(record.getMessage(), flush=True)

logging.getLogger("loopwatch").addHandler(Handler())
STALLS.configure(0.1)
loop = asyncio.new_event_loop()
lag = LoopLag(loop, "a loop")

async def block():
    lag.start()
    lag.resume()
    await asyncio.sleep(0.3)
    while lag.seen or lag.overdue(time.monotonic()) >= 0:  # a stall that a loaded machine has made
        await asyncio.sleep(0.01)
    while not lag.told:
        {sleep}(0.02)
    await asyncio.sleep(0.3)
    lag.stop()

loop.run_until_complete(block())
assert threads and set(threads) == {{threading.main_thread().native_id}}, threads
"""
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    assert "blocks it, here:" in process.stdout
    assert "in block" in process.stdout
