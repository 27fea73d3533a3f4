"""One engine for all calls, on the process's loop."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import loopwatch
from tests.acceptance.adoption.celery_app import app, database

engine = loopwatch.create_async_engine(database("vstorm"))


@asynccontextmanager
async def get_worker_db_context() -> AsyncIterator[AsyncSession]:
    async with async_sessionmaker(engine)() as session:
        yield session


@app.task(name="vstorm")
def report() -> int:
    return loopwatch.run_async(_report())


async def _report() -> int:
    async with get_worker_db_context() as session:
        return int((await session.execute(text("SELECT 42"))).scalar_one())
