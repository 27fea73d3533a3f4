"""The same engines and loops; one Redis client; what is synchronous is measured as well."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import threading
from functools import cache

from redis.asyncio import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from loopwatch import create_async_engine, observe, redis_from_url
from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

sync_engine = observe(create_engine(database("onyx_sync", "postgresql+psycopg")))
_local = threading.local()
_redis = redis_from_url(REDIS_URL)


@cache
def shard(name: str) -> AsyncEngine:
    return create_async_engine(database(name), pool_size=2)


def get_redis() -> Redis:
    return _redis


def get_loop() -> asyncio.AbstractEventLoop:
    if not hasattr(_local, "loop"):
        _local.loop = asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = _local.loop
    return loop


@app.task(name="onyx")
def crawl() -> int:
    with sync_engine.connect() as connection:
        found = int(connection.execute(text("SELECT 2")).scalar_one())
    return found + get_loop().run_until_complete(_crawl())


async def _crawl() -> int:
    await get_redis().set("crawled", 1)
    async with shard("onyx").connect() as connection:
        return int((await connection.execute(text("SELECT 40"))).scalar_one())
