"""The Celery application of the tests that run on every pool: what an ``async def`` task may be and do."""
# ruff: noqa: ASYNC110  # what is waited for is not of one loop
# Celery and kombu are typed in parts, and its hooks are not made for coroutines.
# mypy: disable-error-code="untyped-decorator,no-untyped-call,attr-defined,override"

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter, defaultdict
from contextvars import ContextVar
from typing import Any

from celery import Celery, Task, shared_task, signals
from pydantic import BaseModel
from sqlalchemy import text

import loopwatch
from loopwatch.telemetry.stats import current_task
from tests.acceptance.patience import DEADLINE, be_patient

URL = os.environ["REDIS_URL"]

app = Celery("pools_app", broker=URL, backend=URL, task_cls=loopwatch.AsyncTask)
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_cancel_long_running_tasks_on_connection_loss=True,
)
be_patient(app)
loopwatch.instrument(app, interval=0.5, event_loop=os.environ.get("EVENT_LOOP"))
engine = loopwatch.create_async_engine(os.environ["DATABASE_URL"], name="main", pool_size=2, max_overflow=3)
redis = loopwatch.redis_from_url(URL)
logger = logging.getLogger(__name__)

prerun_id: ContextVar[str] = ContextVar("prerun_id", default="")
log: defaultdict[str, list[Any]] = defaultdict(list)
met: Counter[str] = Counter()
kept: list[Any] = []


@signals.task_prerun.connect
def _prerun(task_id: str, **_: Any) -> None:
    prerun_id.set(task_id)


@app.task
async def logged(key: str) -> list[Any]:
    return log[key]


@app.task(bind=True)
async def who(self: Any, argument: int = 0, *, keyword: int = 0) -> dict[str, Any]:
    """What the coroutine knows of its task."""
    await asyncio.sleep(0.01)
    request = self.request
    return {
        "id": request.id,
        "arguments": [argument, keyword],
        "retries": request.retries,
        "routing_key": request.delivery_info["routing_key"],
        "headers": request.headers,
        "eta": request.eta,
        "prerun": prerun_id.get(),
        "queue": current_task.get().queue_name,
        "loop": id(asyncio.get_running_loop()),
        "kind": type(asyncio.get_running_loop()).__module__,
    }


@app.task(bind=True, max_retries=3)
async def retried(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(bind=True, autoretry_for=(ValueError,), retry_backoff=True, retry_jitter=False, max_retries=1)
async def retried_by_itself(self: Any) -> int:
    await asyncio.sleep(0)
    if not self.request.retries:
        raise ValueError("once more")
    return int(self.request.retries)


@app.task
async def add(left: int, right: int) -> int:
    await asyncio.sleep(0)
    return left + right


@app.task
async def total(numbers: list[int]) -> int:
    return sum(numbers)


class Hooked(loopwatch.AsyncTask):
    abstract = True

    async def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        await self._note("before_start", task_id)

    async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        await self._note("on_success", task_id)

    async def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        await self._note("on_failure", task_id)

    async def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        await self._note("on_retry", task_id)

    async def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        await self._note(f"after_return {status}", task_id)

    async def _note(self, hook: str, task_id: str) -> None:
        await asyncio.sleep(0)
        assert self.request.id == task_id
        log[task_id].append(hook)


@app.task(base=Hooked, bind=True, max_retries=1)
async def hooked(self: Any, how: str) -> str:
    if how == "fail":
        raise ValueError("no")
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    return how


class Called(loopwatch.AsyncTask):
    """As applications do it, to run every task in a context of their own."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return f"<{super().__call__(*args, **kwargs)}>"


@app.task(base=Called)
async def called(text: str) -> str:
    await asyncio.sleep(0)
    return text


class Page(BaseModel):
    number: int


@app.task(pydantic=True, bind=True)
async def turned(self: Any, page: Page) -> Page:
    await asyncio.sleep(0)
    assert self.request.id
    return Page(number=page.number + 1)


@app.task(bind=True, acks_late=True)
async def progressed(self: Any, release: str) -> str:
    """Tells how far it is, and goes on once the key ``release`` is in Redis."""
    self.update_state(state="PROGRESS", meta={"done": 1})
    async with asyncio.timeout(DEADLINE):
        while not await redis.exists(release):
            await asyncio.sleep(0.01)
    return "done"


@app.task(base=Hooked, ignore_result=True)
async def ignored(key: str) -> str:
    log[key].append("ran")
    return "nobody's"


class Based(loopwatch.AsyncTask):
    name = "pools_app.based"

    async def run(self, number: int) -> int:
        await asyncio.sleep(0)
        return number + (1 if self.request.id else 0)


app.register_task(Based())


class Plain(Task):  # type: ignore[type-arg]
    abstract = True

    def plain(self) -> str:
        return "plain"


class Mixed(loopwatch.AsyncTask, Plain):
    abstract = True


@app.task(base=Mixed, bind=True)
async def mixed(self: Any) -> str:
    await asyncio.sleep(0)
    return str(self.plain())


@shared_task(name="pools_app.shared", bind=True)
async def shared(self: Any) -> str:
    await asyncio.sleep(0)
    return str(self.request.id)


@app.task
def eager() -> dict[str, Any]:
    """A task that calls another one in place."""
    return dict(who.apply(task_id="within").get(disable_sync_subtasks=False))


@app.task
async def query() -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


@app.task
async def meet(key: str, number: int) -> int:
    """Returns once ``number`` of these tasks run at the same time; uses the database, Redis and the log meanwhile."""
    met[key] += 1
    logger.warning("one of %d has come", number)
    async with asyncio.timeout(DEADLINE):
        while met[key] < number:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            await redis.ping()
            await asyncio.sleep(0.01)
    return met[key]


@app.task
def meet_from_synchronous(key: str, number: int) -> int:
    return loopwatch.run_async(lambda: meet_coroutine(key, number), timeout=DEADLINE)


async def meet_coroutine(key: str, number: int) -> int:
    met[key] += 1
    while met[key] < number:
        await asyncio.sleep(0.01)
    return met[key]


@app.task
async def hold(key: str) -> None:
    """Holds a transaction open for a minute."""
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 'held'"))
            log[key].append("holds")
            await redis.set(key, "holds")
            await asyncio.sleep(60)
    except asyncio.CancelledError:
        log[key].append("cancelled")
        raise


@app.task
async def leave_an_orphan(key: str) -> None:
    async def orphan() -> None:
        for _ in range(1000):
            await asyncio.sleep(0.01)
            log[key].append("resumed")
            ran.set()

    ran = asyncio.Event()
    kept.append(asyncio.create_task(orphan()))
    await ran.wait()


@app.task
async def what_the_orphan_did(key: str, seconds: float) -> tuple[int, int]:
    before = len(log[key])
    await asyncio.sleep(seconds)
    return before, len(log[key])


@app.task
async def resolved() -> bool:
    """Names are resolved, and blocking functions called, in threads that the loop must not wait for in vain."""
    found = await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    return bool(found) and await asyncio.to_thread(sum, [1, 2]) == 3


@app.task
def asyncio_run_beside() -> int:
    """What a task that does not use loopwatch does."""
    return asyncio.run(meet_coroutine("alone", 1))
