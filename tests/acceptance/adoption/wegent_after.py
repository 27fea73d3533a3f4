"""The lazy engine and the cache are global and right on every loop; blocks run on the process's loop."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import loopwatch
from tests.acceptance.adoption.celery_app import REDIS_URL, app, database

_engine: AsyncEngine | None = None


def get_engine() -> AsyncEngine:
    global _engine
    if _engine is None:
        _engine = loopwatch.create_async_engine(database("wegent", "mysql+asyncmy"))
    return _engine


class Cache:
    client = loopwatch.redis_from_url(REDIS_URL)

    async def set(self, key: str, value: int) -> None:
        await self.client.set(key, value)


cache = Cache()


@app.task(name="wegent")
def execute() -> int:
    found = loopwatch.run_async(_query())
    loopwatch.run_async(cache.set("executed", found))
    return found


async def _query() -> int:
    async with get_engine().connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
