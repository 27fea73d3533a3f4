"""Clients of other people's, as values of a `PerLoop` that is told nothing of their sockets.

Run as a program by `test_per_loop_clients`: a parent with open connections forks, and both go on. Arguments: the URLs
of PostgreSQL and of the HTTP server, loop (asyncio or uvloop), when (``open``, ``making`` or ``disposing``). Prints
``ok`` when neither side was harmed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import asyncpg
import uvloop

from loopwatch import PerLoop

Use = Callable[[PerLoop[Any], str], Awaitable[object]]


def make_pools(url: str) -> PerLoop[asyncpg.Pool]:
    async def make() -> asyncpg.Pool:
        return await asyncpg.create_pool(url, min_size=2, max_size=4)

    return PerLoop(make, dispose=lambda pool: pool.close(), name="asyncpg")


async def query(pools: PerLoop[asyncpg.Pool], _: str) -> int:
    async with (await pools.aget()).acquire() as connection:
        return int(await connection.fetchval("SELECT 1"))


def make_sessions() -> PerLoop[aiohttp.ClientSession]:
    return PerLoop(aiohttp.ClientSession, dispose=lambda session: session.close(), name="aiohttp")


async def fetch(sessions: PerLoop[aiohttp.ClientSession], url: str) -> str:
    async with sessions.get().get(url) as response:
        return await response.text()


def child(
    pools: PerLoop[asyncpg.Pool], sessions: PerLoop[aiohttp.ClientSession], slow: PerLoop[Any], http_url: str
) -> None:
    assert len(pools) == len(sessions) == len(slow) == 0
    for _ in range(2):
        assert asyncio.run(query(pools, "")) == 1
        assert asyncio.run(fetch(sessions, http_url))
        gc.collect()
    assert len(pools) == len(sessions) == 0
    sys.stdin.read()  # lives on: what it has inherited must not keep the parent's connections open
    gc.collect()


def run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    loop.run_until_complete(asyncio.wait_for(work, 30))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def main(database_url: str, http_url: str, flavour: str, when: str) -> None:
    loop = uvloop.new_event_loop() if flavour == "uvloop" else asyncio.new_event_loop()
    pools, sessions = make_pools(database_url), make_sessions()
    reached, go_on = threading.Event(), threading.Event()

    async def wait_for_fork() -> None:
        reached.set()
        while not go_on.is_set():  # noqa: ASYNC110  # the main thread forks meanwhile
            await asyncio.sleep(0.01)

    async def connect() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(*http_url.removeprefix("http://").split(":"))
        if when == "making":
            await wait_for_fork()
        return writer

    async def end(writer: asyncio.StreamWriter) -> None:
        if when == "disposing":
            await wait_for_fork()
        writer.close()
        await writer.wait_closed()

    slow: PerLoop[asyncio.StreamWriter] = PerLoop(connect, dispose=end, name="slow")

    async def parent() -> None:
        await query(pools, "")
        await fetch(sessions, http_url)
        writer = await slow.aget()
        if when == "open":
            await wait_for_fork()
        if when == "disposing":
            await slow.aclose()
        else:
            assert not writer.is_closing()
        assert await query(pools, "") == 1
        assert await fetch(sessions, http_url)

    thread = threading.Thread(target=lambda: run(loop, parent()))
    thread.start()
    assert reached.wait(30)
    if os.fork() == 0:
        go_on.set()
        child(pools, sessions, slow, http_url)
        if flavour == "uvloop":
            # As Celery's children do. With its finalisers a child crashes in libuv, loopwatch or not, once the parent's
            # uvloop has looked a name up: libuv waits for threads that the fork did not copy.
            os._exit(0)
        sys.exit(0)
    go_on.set()
    thread.join()
    print("ended", flush=True)
    sys.stdin.read()
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == 0, status
    print("ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
