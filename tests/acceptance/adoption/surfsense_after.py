"""One engine and one way to run coroutines, for the API and the workers."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker

import loopwatch
from tests.acceptance.adoption.celery_app import app, database

engine = loopwatch.create_async_engine(database("surfsense"), pool_size=5, max_overflow=10)
session_maker = async_sessionmaker(engine, expire_on_commit=False)
worker_session_maker = session_maker
run_async_celery_task = loopwatch.run_async


@app.task(name="surfsense")
def index() -> int:
    return run_async_celery_task(_index)


async def _index() -> int:
    async with worker_session_maker() as session:
        return int((await session.execute(text("SELECT 42"))).scalar_one())
