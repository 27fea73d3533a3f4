"""Synchronous engines, an asynchronous one a shard, Redis clients keyed by loop by hand, a loop a thread."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import threading
from functools import cache

from redis.asyncio import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

sync_engine = create_engine(database("onyx_sync", "postgresql+psycopg"))
_local = threading.local()
_redis: dict[asyncio.AbstractEventLoop, Redis] = {}


@cache
def shard(name: str) -> AsyncEngine:
    return create_async_engine(database(name), pool_size=2)


def get_redis() -> Redis:
    loop = asyncio.get_running_loop()
    if loop not in _redis:
        _redis[loop] = Redis.from_url(REDIS_URL)
    return _redis[loop]


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
