"""An engine without a pool for each call, in ``asyncio.run``."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from tests.acceptance.adoption.celery_app import app, database


@asynccontextmanager
async def get_worker_db_context() -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(database("vstorm"), poolclass=NullPool)
    try:
        async with async_sessionmaker(engine)() as session:
            yield session
    finally:
        await engine.dispose()


@app.task(name="vstorm")
def report() -> int:
    return asyncio.run(_report())


async def _report() -> int:
    async with get_worker_db_context() as session:
        return int((await session.execute(text("SELECT 42"))).scalar_one())
