"""Run as a program by `test_termination`: children that are busy on the database are ended as billiard ends a pool's.

Arguments: database URL, loop (asyncio or uvloop), how many. Prints how they ended, as a JSON object: what → how many.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter

from billiard.common import reset_signals
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import loopwatch
from loopwatch.event_loops import use_event_loop

EXITED, WENT_ON = 77, 78
PATIENCE = 60.0
"""Seconds that a child has to end; one that goes on although it was told ends by itself in half of them."""


async def work(engine: AsyncEngine, begun: int) -> None:
    async with asyncio.timeout(PATIENCE / 2):
        while True:
            async with engine.connect() as connection:
                for _ in range(20):
                    await connection.execute(text("SELECT 1"))
                os.write(begun, b".")


def child(url: str, begun: int) -> int:
    engine = loopwatch.create_async_engine(url)
    reset_signals()
    try:
        loopwatch.run_async(work(engine, begun))
    except SystemExit:
        return EXITED
    except TimeoutError:
        return WENT_ON
    return 0


def end_of(pid: int) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return {EXITED: "exited", WENT_ON: "went on"}.get(code, f"exit code {code}")
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


def trial(url: str) -> str:
    busy, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(child(url, begun))
    os.close(begun)
    os.read(busy, 1)
    time.sleep(random.uniform(0.02, 0.15))
    os.kill(pid, signal.SIGTERM)
    try:
        return end_of(pid)
    finally:
        os.close(busy)


if __name__ == "__main__":
    use_event_loop(sys.argv[2])
    print(json.dumps(Counter(trial(sys.argv[1]) for _ in range(int(sys.argv[3])))))
