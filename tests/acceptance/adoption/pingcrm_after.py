"""The same loops; engine and client are made once."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio

from sqlalchemy import text

from loopwatch import create_async_engine, redis_from_url
from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

engine = create_async_engine(database("pingcrm"))
redis = redis_from_url(REDIS_URL)


@app.task(name="pingcrm")
def sync() -> int:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_sync())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _sync() -> int:
    await redis.set("synced", 1)
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
