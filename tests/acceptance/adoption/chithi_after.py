"""SQLModel; ``async def`` tasks by celery-aio-pool; a fork needs no care."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from loopwatch import create_async_engine
from tests.acceptance.adoption.celery_app import app, database

engine = create_async_engine(database("chithi"))


@app.task(name="chithi")
async def send() -> int:
    async with AsyncSession(engine) as session:
        return int((await session.exec(select(42))).one())
