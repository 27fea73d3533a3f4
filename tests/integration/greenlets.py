"""Run as a process of its own: patched by gevent or eventlet (its argument), it plays each scenario."""
# ruff: noqa: ASYNC110, E402  # what is waited for is not of one loop; patching comes first
# gevent and eventlet are untyped.
# mypy: disable-error-code="import-untyped,no-redef,unused-ignore"

from __future__ import annotations

import sys
import warnings

warnings.simplefilter("ignore")  # eventlet's of itself
if sys.argv[1] == "gevent":
    import gevent.monkey

    gevent.monkey.patch_all()
    from gevent import joinall, kill, sleep, spawn
else:
    import eventlet

    eventlet.monkey_patch()
    from eventlet import kill, sleep, spawn

    def joinall(greenlets: list[Any]) -> None:
        for greenlet in greenlets:
            greenlet.wait()


import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import loopwatch
from loopwatch.runner import close_loops, run_async

log: list[Any] = []


def logging_at_the_same_time() -> None:
    """Where a loop in a native thread loses its place in the queue for logging's lock."""
    logger = logging.getLogger("test")
    logger.addHandler(logging.FileHandler(os.devnull))
    logger.propagate = False

    async def coroutine() -> None:
        for number in range(500):
            logger.warning("%d", number)
            await asyncio.sleep(0)

    def beside() -> None:
        for number in range(500):
            logger.warning("%d", number)
            sleep(0)

    joinall([spawn(run_async, coroutine) for _ in range(3)] + [spawn(beside) for _ in range(3)])


def one_loop_for_all() -> None:
    running: set[int] = set()

    async def coroutine(number: int) -> int:
        running.add(number)
        while len(running) < 20:
            await asyncio.sleep(0.001)
        return id(asyncio.get_running_loop())

    def call(number: int) -> None:
        log.append(run_async(coroutine(number), timeout=60))

    joinall([spawn(call, number) for number in range(20)])
    assert len(log) == 20
    assert len(set(log)) == 1


def other_greenlets_are_not_inside_the_loop() -> None:
    """Neither while it waits, nor while its coroutine waits as greenlets do; there `run_async` may be called."""
    waiting: list[str] = []

    async def own_way() -> None:
        waiting.append("asyncio")
        while "asyncio" in waiting:
            await asyncio.sleep(0.001)

    async def green_way() -> None:
        waiting.append("green")
        while "green" in waiting:
            sleep(0.001)

    async def nothing() -> str:
        return "done"

    first = spawn(run_async, own_way)
    while not waiting:
        sleep(0.001)
    assert asyncio._get_running_loop() is None
    assert asyncio.run(nothing()) == "done"
    assert run_async(nothing()) == "done"
    waiting.clear()
    joinall([first])
    second = spawn(run_async, green_way)
    while not waiting:
        sleep(0.001)
    third = spawn(lambda: log.append(run_async(nothing())))
    sleep(0.01)
    assert not log  # the loop is blocked: it waits, and is not refused
    waiting.clear()
    joinall([second, third])
    assert log == ["done"]


def inside_it_run_async_is_refused() -> None:
    async def nested() -> str:
        try:
            run_async(one_loop_for_all)  # type: ignore[arg-type]
        except loopwatch.RunningLoopError:
            return "refused"
        return "done"

    assert run_async(nested()) == "refused"


def a_busy_loop_gives_way() -> None:
    async def busy() -> None:
        while not log:
            await asyncio.sleep(0)

    greenlet = spawn(run_async, busy)
    sleep(0.01)
    log.append("let in")
    joinall([greenlet])


def a_killed_greenlet_ends_its_coroutine() -> None:
    async def long() -> None:
        log.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.001)
            log.append("ended")

    greenlet = spawn(run_async, long)
    while not log:
        sleep(0.001)
    kill(greenlet)
    deadline = time.monotonic() + 30
    while log != ["begun", "ended"]:
        assert time.monotonic() < deadline
        sleep(0.001)


def sockets_names_threads_and_timeouts_work() -> None:
    async def talk() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "localhost", 0)
        reader, writer = await asyncio.open_connection("localhost", server.sockets[0].getsockname()[1])
        assert await reader.read() == b""
        writer.close()
        server.close()
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
            log.append("no timeout")
        left, right = socket.socketpair()
        left.setblocking(False)
        asyncio.get_running_loop().call_later(0.01, right.send, b"x")
        assert await asyncio.get_running_loop().sock_recv(left, 1) == b"x"

    run_async(talk(), timeout=60)
    assert not log


def a_forked_child_leaves_the_loop_alone() -> None:
    """The child has a copy of the loop's greenlet, which must not go on with the parent's coroutine."""
    if sys.argv[1] == "eventlet":
        return  # its hub goes on with the parent's epoll in the child: nothing of eventlet's outlives a fork
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    read, write = os.pipe()

    async def pid() -> int:
        return os.getpid()

    async def coroutine() -> None:
        log.append("begun")
        await asyncio.sleep(0.05)
        os.write(write, b"once")

    greenlet = spawn(run_async, coroutine)
    while not log:
        sleep(0.001)
    child = os.fork()
    if child == 0:
        sleep(0.3)
        os._exit(0 if run_async(pid(), timeout=30) == os.getpid() else 1)
    joinall([greenlet])
    assert run_async(pid(), timeout=30) == os.getpid()
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"once"
    os.close(read)
    os.close(write)
    close_loops()
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2  # the hub's own


def a_native_thread_is_refused() -> None:
    async def nothing() -> None: ...

    def call() -> str:
        try:
            run_async(nothing())
        except loopwatch.ConfigurationError as error:
            return str(error)
        return "accepted"

    if sys.argv[1] == "gevent":
        answer = gevent.get_hub().threadpool.apply(call)
    else:
        from eventlet import tpool

        answer = tpool.execute(call)
    assert "native thread" in answer, answer


def uvloop_is_not_used() -> None:
    from loopwatch.event_loops import use_event_loop

    use_event_loop("uvloop")

    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run_async(kind) == "loopwatch.green"


SCENARIOS: list[Callable[[], None]] = [
    logging_at_the_same_time,
    one_loop_for_all,
    other_greenlets_are_not_inside_the_loop,
    inside_it_run_async_is_refused,
    a_busy_loop_gives_way,
    a_killed_greenlet_ends_its_coroutine,
    sockets_names_threads_and_timeouts_work,
    a_forked_child_leaves_the_loop_alone,
    a_native_thread_is_refused,
    uvloop_is_not_used,
]

if __name__ == "__main__":
    for scenario in SCENARIOS:
        log.clear()
        scenario()
        close_loops()
        print(scenario.__name__, flush=True)
