"""The Celery application of the worker tests: run as a real worker, in processes of its own."""
# Celery and kombu are typed in parts.
# mypy: disable-error-code="untyped-decorator,no-untyped-call,attr-defined"

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import threading
import time
from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from sqlalchemy import text

import loopwatch
from tests.acceptance.patience import DEADLINE, be_patient

REDIS = os.environ["REDIS_URL"]
RABBITMQ = os.environ.get("RABBITMQ_URL", "")
QUORUM = {"x-queue-type": "quorum"}
LONG = 3 * DEADLINE
"""Seconds that a task lasts which is to be ended: what was waited for did not come because it ended by itself."""

app = Celery("worker_app", broker=RABBITMQ or REDIS, backend=REDIS, task_cls=loopwatch.AsyncTask)
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_queues=[
        Queue("celery", Exchange("celery"), "celery"),
        Queue("logs", Exchange("direct_logs"), "rk.logs"),
        Queue("content", Exchange("topics", type="topic"), "content.#"),
    ],
    worker_hijack_root_logger=False,
    worker_pool_start_method=os.environ.get("START_METHOD", "fork"),
)
if os.environ.get("MORE_QUEUES"):
    app.conf.task_queues += [
        Queue("broadcast", Exchange("everybody", type="fanout"), "broadcast"),
        Queue("priorities", Exchange("priorities"), "rk.priorities", queue_arguments={"x-max-priority": 5}),
        Queue("quorum", Exchange("quorums", type="topic"), "default", queue_arguments=QUORUM),
        Queue("audits", Exchange("quorums", type="topic"), "audit.*", queue_arguments=QUORUM),
    ]
be_patient(app)
loopwatch.instrument(app, interval=0.5, release="1.2.3", stall_threshold=0.5)
engine = (
    loopwatch.create_async_engine(os.environ["DATABASE_URL"], name="main") if os.environ.get("DATABASE_URL") else None
)

orphans: list[Any] = []
log: list[str] = []


async def _notify(operation: str) -> None:
    async with loopwatch.tolerated(operation):
        await asyncio.sleep(0)


@app.task
def notify(operation: str = "notify") -> int:
    """Counts one notification; answers with the pid of the process that did."""
    loopwatch.run_async(_notify(operation))
    return os.getpid()


@app.task
def threads() -> list[str]:
    """The names of this process's threads."""
    return [thread.name for thread in threading.enumerate()]


@app.task(bind=True)
async def who(self: Any, seconds: float = 0.0) -> tuple[str, int, str]:
    """The request as the coroutine sees it, its loop, and its queue as loopwatch sees it."""
    from loopwatch.telemetry.stats import current_task

    await asyncio.sleep(seconds)
    return self.request.id, id(asyncio.get_running_loop()), current_task.get().queue_name


async def _until(release: str) -> None:
    """Returns once the test has made the file."""
    while not os.path.exists(release):  # noqa: ASYNC110, ASYNC240, PTH110  # another process makes it
        await asyncio.sleep(0.01)


@app.task
async def count_then_die(release: str) -> None:
    await _notify("dying")
    await _until(release)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
async def query() -> int:
    assert engine is not None
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


@app.task
async def hold() -> None:
    await _hold()


async def _hold() -> None:
    """Holds a transaction open."""
    assert engine is not None
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        await asyncio.sleep(LONG)


@app.task
async def work(release: str) -> int:
    """Uses the database and counts a notification, in a transaction until ``release`` is there; returns its pid."""
    assert engine is not None
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        await _notify("work")
        await _until(release)
    return os.getpid()


@app.task
def hold_with_a_timeout(seconds: float) -> None:
    loopwatch.run_async(_hold(), timeout=seconds)


@app.task
async def block() -> None:
    """Blocks the loop, in a transaction."""
    assert engine is not None
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        time.sleep(LONG)  # noqa: ASYNC251


@app.task
async def stall_alone() -> None:
    """Blocks the loop, on which nothing else waits, for twice the threshold of a stall."""
    await asyncio.sleep(0)
    time.sleep(1)  # noqa: ASYNC251


@app.task
async def stall(held: str) -> None:
    """Blocks the loop, on which another task waits, until the test gives up its lock of the file."""
    other = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    descriptor = os.open(held, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)
    other.cancel()


@app.task
async def leave_an_orphan() -> None:
    async def orphan() -> None:
        for _ in range(1000):
            await asyncio.sleep(0.01)
            log.append("resumed")
            ran.set()

    ran = asyncio.Event()
    orphans.append(asyncio.create_task(orphan()))
    await ran.wait()


@app.task
async def what_the_orphan_did(seconds: float) -> tuple[int, int]:
    """How much the orphan has logged before this task, and since."""
    before = len(log)
    await asyncio.sleep(seconds)
    return before, len(log)


@app.task(bind=True, max_retries=1)
def conflict(self: Any, retry: bool) -> None:
    """A loop conflict as an application without guards meets it."""
    try:
        raise RuntimeError("Task <Task> got Future <Future pending> attached to a different loop")
    except RuntimeError as error:
        if retry and not self.request.retries:
            raise self.retry(exc=error, countdown=0) from error
        raise


@app.task
async def query_a_foreign_connection(made_at: str) -> None:
    """An error of a guard's, and of a driver whose message quotes the URL."""
    from loopwatch.conflicts import count_once
    from loopwatch.errors import LoopConflictError

    error = LoopConflictError("a connection to pg://me:secret@db was refused", resource="asyncpg", kind="cross_loop")
    error.made_at = made_at  # type: ignore[attr-defined, unused-ignore]
    count_once(error, source="guard")
    raise error


@app.task
async def refused() -> None:
    """A conflict that a guard has refused, and counted, fails the task with an error that cannot be pickled."""
    from loopwatch.errors import LoopConflictError
    from loopwatch.telemetry import catalogue
    from loopwatch.telemetry.stats import STATS, current_task

    class LocalConflictError(LoopConflictError):
        pass

    error = LocalConflictError("got Future <F> attached to a different loop", resource="asyncpg", kind="cross_loop")
    task = current_task.get()
    STATS.count(catalogue.LOOP_CONFLICTS, (task.queue_name, task.name, "asyncpg", "cross_loop", "guard"))
    error._loopwatch_counted = True
    raise error
