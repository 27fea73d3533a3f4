"""``async def`` tasks that a tracer of the application's own awaits, a subclass of Redis, hooks of tasks."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from celery import Task
from celery.app import trace
from redis.asyncio import ConnectionPool, Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

engine = create_async_engine(database("fba"))


class RedisCli(Redis):
    async def remember(self, key: str) -> int:
        return int(await self.incr(key))


redis_client = RedisCli(connection_pool=ConnectionPool.from_url(REDIS_URL))
_build_tracer: Any = trace.build_tracer


def build_async_tracer(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
    run = task.run
    if inspect.iscoroutinefunction(run):
        task.run = lambda *arguments, **options: asyncio.run(run(*arguments, **options))
    return _build_tracer(name, task, *args, **kwargs)


trace.build_tracer = build_async_tracer


class TaskBase(Task):  # type: ignore[type-arg]
    abstract = True


@app.task(name="fba", base=TaskBase)
async def work() -> int:
    assert await redis_client.remember("worked")
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
