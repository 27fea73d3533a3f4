"""An engine for the API, one without a pool for the workers, a new loop a task, everything disposed of around it."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from tests.acceptance.adoption.celery_app import app, database

engine = create_async_engine(database("surfsense"), pool_size=30, max_overflow=150)
session_maker = async_sessionmaker(engine, expire_on_commit=False)
worker_engine = create_async_engine(database("surfsense"), poolclass=NullPool)
worker_session_maker = async_sessionmaker(worker_engine, expire_on_commit=False)


async def _dispose_engines() -> None:
    await engine.dispose(close=False)
    await worker_engine.dispose()


def run_async_celery_task(task: Callable[[], Awaitable[int]]) -> int:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_dispose_engines())
        return loop.run_until_complete(task())
    finally:
        loop.run_until_complete(_dispose_engines())
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


@app.task(name="surfsense")
def index() -> int:
    return run_async_celery_task(_index)


async def _index() -> int:
    async with worker_session_maker() as session:
        return int((await session.execute(text("SELECT 42"))).scalar_one())
