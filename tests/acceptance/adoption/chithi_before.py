"""SQLModel; ``async def`` tasks by celery-aio-pool; the inherited pool is thrown away when a worker process begins."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
from typing import Any

from celery.signals import worker_process_init
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from tests.acceptance.adoption.celery_app import app, database

engine = create_async_engine(database("chithi"))


@worker_process_init.connect
def _reset(**_: Any) -> None:
    asyncio.run(engine.dispose())


@app.task(name="chithi")
async def send() -> int:
    async with AsyncSession(engine) as session:
        return int((await session.exec(select(42))).one())
