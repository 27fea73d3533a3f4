"""The public API as a reader's type checker sees it. Never run: `make types` checks it, strictly.

A wrong use has a ``type: ignore`` with its code; one that the checker would let pass is an unused ignore, an error.
`tests/unit/test_typing.py` holds that every public name is used here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

import httpx
import httpx2
from celery import Celery, Task
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import loopwatch
import loopwatch.testing


class Thing:
    async def close(self) -> None: ...


async def make_thing() -> Thing:
    return Thing()


async def generate() -> AsyncIterator[Thing]:
    yield Thing()


async def add(one: int, other: int) -> int:
    return one + other


# ------------------------------------------------------------------------------------------------ SQLAlchemy
engine = loopwatch.create_async_engine("postgresql+asyncpg://localhost/app", name="main", leak_threshold=30, echo=True)
assert_type(engine, AsyncEngine)
create_async_engine("postgresql+asyncpg://localhost/app", poolclass=loopwatch.LoopAwarePool)
loopwatch.create_async_engine(5432)  # type: ignore[arg-type]
loopwatch.create_async_engine("postgresql+asyncpg://localhost/app", leak_threshold="30")  # type: ignore[arg-type]
loopwatch.create_async_engine("postgresql+asyncpg://localhost/app", budget=200)  # type: ignore[arg-type]


def observe(asynchronous: AsyncEngine, synchronous: Engine) -> None:
    assert_type(loopwatch.observe(asynchronous, name="main"), AsyncEngine)
    assert_type(loopwatch.observe(synchronous), Engine)
    loopwatch.observe("postgresql://localhost/app")  # type: ignore[type-var]


# ---------------------------------------------------------------------------------------------------- budget
plan = loopwatch.budget(200, processes={"api": 4, "worker": 14}, weights={"api": 2}, surge=1.5)
assert_type(plan, loopwatch.Budget)
assert_type(plan.total, int)
assert_type(plan.roles["api"].pool_size, int)
loopwatch.create_async_engine("postgresql+asyncpg://localhost/app", **plan.pool_options("api"))
loopwatch.budget(200)  # type: ignore[call-arg]
loopwatch.budget(200, 18)  # type: ignore[call-arg]
loopwatch.budget(200, processes=18, weights=2)  # type: ignore[arg-type]
plan.limit = 300  # type: ignore[misc]

# ------------------------------------------------------------------------------------------------ Redis, HTTP
assert_type(loopwatch.redis_from_url("redis://localhost", max_connections=10), Redis)
Redis(connection_pool=loopwatch.RedisConnectionPool.from_url("redis://localhost"))
sentinel = Sentinel([("localhost", 26379)])  # type: ignore[no-untyped-call]  # redis-py
sentinel.master_for("mymaster", connection_pool_class=loopwatch.RedisSentinelPool)
loopwatch.redis_from_url(b"redis://localhost")  # type: ignore[arg-type]
assert_type(loopwatch.http_client(library="httpx", timeout=30), httpx.AsyncClient)
assert_type(loopwatch.http_client(library="httpx2"), httpx2.AsyncClient)
assert_type(loopwatch.http_client(name="llm"), Any)  # whichever is installed
loopwatch.HTTPTransport(http2=True, verify=False)
loopwatch.HTTPTransport(retries="3")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- PerLoop
async def per_loop() -> None:
    things = loopwatch.PerLoop(Thing, dispose=Thing.close, name="things")
    assert_type(things, loopwatch.PerLoop[Thing])
    assert_type(things.get(), Thing)
    assert_type(await things.aget(), Thing)
    assert_type(things.peek(), Thing | None)
    for thing in things:
        assert_type(thing, Thing)
    later = loopwatch.PerLoop(make_thing, dispose=lambda thing: thing.close())
    assert_type(later, loopwatch.PerLoop[Thing])
    assert_type(await later.aget(), Thing)
    loopwatch.PerLoop(Thing())  # type: ignore[call-overload]
    loopwatch.PerLoop(make_thing())  # type: ignore[call-overload]
    loopwatch.PerLoop(Thing, Thing.close)  # type: ignore[call-overload]
    things.aget().ping()  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------- Celery
app: Celery[Any] = Celery("app", task_cls=loopwatch.AsyncTask)
loopwatch.instrument(app, interval=10, release="1.2")
loopwatch.instrument(app, event_loop="uvloop", stall_threshold=None, check_async_tasks=False)
loopwatch.instrument("app")  # type: ignore[arg-type]
assert_type(loopwatch.run_async(add(1, 2), timeout=60), int)
assert_type(loopwatch.run_async(lambda: add(1, 2)), int)
assert_type(loopwatch.run_async(make_thing, shared=True), Thing)
loopwatch.run_async(Thing)  # type: ignore[arg-type]
loopwatch.run_async(generate)  # type: ignore[arg-type]
loopwatch.run_async(add(1, 2), timeout="60")  # type: ignore[arg-type]


class Base(loopwatch.AsyncTask):
    pass


def is_a_task(task: Base) -> Task[Any, Any]:
    return task


async def notify(redis: Redis) -> None:
    async with loopwatch.tolerated("notify", timeout=5) as notification:
        await redis.publish("topics", "new")
    assert_type(notification, loopwatch.tolerated)
    assert_type(notification.failed, bool)
    async with loopwatch.tolerated("notify", 5):  # type: ignore[call-arg]
        pass
    with loopwatch.tolerated("notify"):  # type: ignore[attr-defined]
        pass


# ------------------------------------------------------------------------------------------- conflicts, errors
def tell(error: Exception) -> str:
    found = loopwatch.classify(error)
    assert_type(found, loopwatch.Conflict | None)
    loopwatch.classify(b"bytes")  # type: ignore[arg-type]
    return "" if found is None else found.kind


def told(error: loopwatch.LoopwatchError) -> str:
    if isinstance(error, loopwatch.LoopConflictError):
        return error.resource + error.kind + error.owner + error.user
    if isinstance(error, loopwatch.MissingExtraError):
        return error.extra
    assert issubclass(loopwatch.BudgetError, loopwatch.ConfigurationError)
    return str(isinstance(error, loopwatch.RunningLoopError))


# -------------------------------------------------------------------------------------------------- telemetry
CollectorRegistry().register(loopwatch.Collector(hostname="api", slot=1))
with loopwatch.report(app, name="api", release="1.2"):
    pass
loopwatch.report(app)  # type: ignore[call-arg]
assert_type(loopwatch.__version__, str)


# ---------------------------------------------------------------------------------------------------- testing
def leaks() -> list[str]:
    with loopwatch.testing.assert_no_leaks():
        loopwatch.run_async(make_thing)
    check = loopwatch.testing.LeakCheck()
    assert_type(check.problems(), list[str])
    return loopwatch.testing.LeakError(["one"]).problems
