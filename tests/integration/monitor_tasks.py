"""A Celery application that knows nothing of loopwatch, for the monitor's tests. The broker is `TEST_BROKER`'s."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import Celery

app = Celery("monitor_tasks", broker=os.environ["TEST_BROKER"])
app.conf.update(
    task_send_sent_event=True,
    worker_send_task_events=bool(os.environ.get("TEST_EVENTS")),
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="ok")  # type: ignore[untyped-decorator,unused-ignore]
def ok() -> None:
    """Does nothing."""


@app.task(name="bad")  # type: ignore[untyped-decorator,unused-ignore]
def bad() -> None:
    """Fails in an ordinary way."""
    raise KeyError("x")


@app.task(name="again", bind=True, max_retries=1)  # type: ignore[untyped-decorator,unused-ignore]
def again(self: Any) -> None:
    """Is retried once, and then fails."""
    raise self.retry(countdown=0, exc=ValueError("again"))


@app.task(name="conflict")  # type: ignore[untyped-decorator,unused-ignore]
def conflict() -> None:
    """Uses a loop that is closed."""
    loop = asyncio.new_event_loop()
    loop.close()
    loop.call_soon(print)
