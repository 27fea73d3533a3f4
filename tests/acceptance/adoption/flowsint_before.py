"""An engine at module level; a loop a call."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from asyncio import run

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.acceptance.adoption.celery_app import app, database

engine = create_async_engine(database("flowsint"), pool_size=2)


@app.task(name="flowsint")
def enrich() -> int:
    return run(_enrich())


async def _enrich() -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
