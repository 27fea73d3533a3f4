"""1,000 event loops on the same three global clients, a tenth of them just closed: nothing is left, here or there."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

import loopwatch
from tests.integration.http_clients import patient_client
from tests.integration.http_server import serve
from tests.postgres import eventually_sessions, sessions

LOOPS = 1000
JUST_CLOSED = 10
"""Each so many-th loop."""


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _eventually(count: Callable[[], int], expected: int) -> int:
    deadline = time.monotonic() + 60
    while (found := count()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.mark.filterwarnings("ignore")  # what a bare close leaves behind warns, rightly; it must not stay behind
def test_1000_loops_leave_no_session_no_client_and_no_descriptor(database_url: str, redis_url: str) -> None:
    # Names by which the servers know them: other tests use the same ones.
    engine = loopwatch.create_async_engine(database_url)
    cache: Any = loopwatch.redis_from_url(redis_url, client_name="a-thousand-loops")
    http = patient_client()
    control = redis.Redis.from_url(redis_url)

    def redis_clients() -> int:
        return sum(client["name"] == "a-thousand-loops" for client in control.client_list())

    with serve() as server:

        async def task(*, look: bool = False) -> None:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            await cache.ping()
            await http.get(server.url)
            if look:  # the witnesses see what there is
                assert (sessions(database_url), redis_clients(), server.connections()) == (1, 1, 1)

        asyncio.run(task(look=True))
        assert server.become(0)
        gc.collect()
        before = _descriptors()
        for number in range(LOOPS):
            if number % JUST_CLOSED:
                asyncio.run(task())
            else:
                loop = asyncio.new_event_loop()
                loop.run_until_complete(task())
                loop.close()
        asyncio.run(task())  # sweeps what the last closed loop left
        gc.collect()
        assert eventually_sessions(database_url, 0) == 0
        assert _eventually(redis_clients, 0) == 0
        assert server.become(0)
        assert _eventually(_descriptors, before) == before
    control.close()
    assert len(engine.pool.loops) == 0  # type: ignore[attr-defined]
