"""An engine at module level, with which the parent process has connected before it forks."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
from typing import Any

from celery.signals import worker_init
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.acceptance.adoption.celery_app import app, database

engine = create_async_engine(database("momentum"))


@worker_init.connect
def _check_database(**_: Any) -> None:
    asyncio.run(_query())


@app.task(name="momentum")
def chat() -> int:
    return asyncio.run(_query())


async def _query() -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
