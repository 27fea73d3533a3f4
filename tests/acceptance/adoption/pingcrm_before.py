"""An engine a task, a new loop a task, Redis clients keyed by the loop's id."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

_clients: dict[int, Redis] = {}


def get_redis() -> Redis:
    key = id(asyncio.get_running_loop())
    if key not in _clients:
        _clients[key] = Redis.from_url(REDIS_URL)
    return _clients[key]


@app.task(name="pingcrm")
def sync() -> int:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_sync())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _sync() -> int:
    engine = create_async_engine(database("pingcrm"))
    try:
        redis = get_redis()
        await redis.set("synced", 1)
        async with engine.connect() as connection:
            return int((await connection.execute(text("SELECT 42"))).scalar_one())
    finally:
        await engine.dispose()
