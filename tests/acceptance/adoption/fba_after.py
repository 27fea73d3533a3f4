"""``async def`` tasks are loopwatch's, and may have asynchronous hooks; the subclass of Redis is kept."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text

from loopwatch import AsyncTask, RedisConnectionPool, create_async_engine
from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

engine = create_async_engine(database("fba"))


class RedisCli(Redis):
    async def remember(self, key: str) -> int:
        return int(await self.incr(key))


redis_client = RedisCli(connection_pool=RedisConnectionPool.from_url(REDIS_URL))


class TaskBase(AsyncTask):
    abstract = True

    async def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # type: ignore[override]
        await redis_client.remember("started")


@app.task(name="fba", base=TaskBase)
async def work() -> int:
    assert await redis_client.remember("worked")
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
