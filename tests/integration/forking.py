"""Run as a program by `test_fork`: a parent with open connections forks, and both go on.

Arguments: database URL, loop (asyncio or uvloop), what the child does. Prints ``ok`` when neither side was harmed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading

import uvloop
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import loopwatch
from loopwatch.telemetry.stats import STATS


async def select(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


async def open_transaction(engine: AsyncEngine) -> AsyncConnection:
    await select(engine)
    connection = await engine.connect()
    await connection.execute(text("CREATE TEMPORARY TABLE mine (x int)"))
    await connection.execute(text("INSERT INTO mine VALUES (42)"))
    return connection


def child(engine: AsyncEngine, what: str, inherited: asyncio.AbstractEventLoop, held: AsyncConnection) -> None:
    if what == "dispose":
        engine.sync_engine.dispose()
    elif what == "dispose(close=False)":
        engine.sync_engine.dispose(close=False)
    elif what == "close the loop":
        inherited.close()
    elif what.startswith("use what is held"):
        try:
            inherited.run_until_complete(asyncio.wait_for(held.execute(text("INSERT INTO mine VALUES (1)")), 1))
        except (TimeoutError, DBAPIError):
            os._exit(0)  # it speaks to /dev/null: "connection was closed in the middle of operation"
        os._exit(1)
    for _ in range(3):
        assert asyncio.run(select(engine)) == 1
        gc.collect()
    assert len(engine.pool.loops) == 0  # type: ignore[attr-defined]


def main(url: str, flavour: str, what: str) -> None:
    engine = loopwatch.create_async_engine(url)
    loop = uvloop.new_event_loop() if flavour == "uvloop" else asyncio.new_event_loop()
    held = loop.run_until_complete(open_transaction(engine))

    if what.endswith("disposed of"):
        loop.run_until_complete(engine.dispose(close=False))

    # Another thread holds our lock at the moment of the fork.
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with STATS._lock:
            locked.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait(10)
    pid = os.fork()
    if pid == 0:
        child(engine, what, loop, held)
        gc.collect()
        sys.exit(0)  # with all finalisers; a pool child of Celery would end by os._exit
    release.set()
    thread.join()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status

    async def go_on() -> None:
        assert (await held.execute(text("SELECT x FROM mine"))).scalar_one() == 42
        await held.commit()
        await held.close()
        assert await select(engine) == 1

    loop.run_until_complete(go_on())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    print("ok")  # this is a program


if __name__ == "__main__":
    main(*sys.argv[1:])
