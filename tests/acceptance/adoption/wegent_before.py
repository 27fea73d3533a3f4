"""A lazy engine on asyncmy, a new loop a block, a Redis client a call to avoid a closed loop; a solo worker."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

_engine: AsyncEngine | None = None


def get_engine() -> AsyncEngine:
    global _engine
    if _engine is None:
        _engine = create_async_engine(database("wegent", "mysql+asyncmy"))
    return _engine


class Cache:
    async def set(self, key: str, value: int) -> None:
        client = Redis.from_url(REDIS_URL)
        try:
            await client.set(key, value)
        finally:
            await client.aclose()


cache = Cache()


@app.task(name="wegent")
def execute() -> int:
    loop = asyncio.new_event_loop()
    try:
        found = loop.run_until_complete(_query())
    finally:
        loop.close()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(cache.set("executed", found))
    finally:
        loop.close()
    return found


async def _query() -> int:
    async with get_engine().connect() as connection:
        found = int((await connection.execute(text("SELECT 42"))).scalar_one())
    await get_engine().dispose()
    return found
