"""Celery's eager mode beside a running event loop, as in the tests of an asynchronous API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery import Celery

import loopwatch


@pytest.fixture
def app() -> Celery[Any]:
    made: Celery[Any] = Celery("eager", task_cls=loopwatch.AsyncTask, broker="memory://", set_as_current=False)
    made.conf.task_always_eager = True
    return made


async def test_an_async_task_in_a_running_loop_says_what_to_write(app: Celery[Any]) -> None:
    @app.task(name="send")
    async def send(number: int) -> int:
        await asyncio.sleep(0)
        return number

    with pytest.raises(loopwatch.RunningLoopError, match=r"the task send .*await asyncio\.to_thread\(task\.delay"):
        send.delay(1).get()
    # What it says works.
    assert (await asyncio.to_thread(send.delay, 2)).get() == 2
