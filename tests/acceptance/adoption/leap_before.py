"""An engine without a pool for each call; the base class of the tasks has a method ``run_async`` of its own."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from celery import Task
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from tests.acceptance.adoption.celery_app import app, database


def get_async_session_maker() -> async_sessionmaker[Any]:
    engine = create_async_engine(database("leap"), poolclass=NullPool)
    return async_sessionmaker(engine, expire_on_commit=False)


class BaseTask(Task):  # type: ignore[type-arg]
    abstract = True

    def run_async(self, coroutine: Coroutine[Any, Any, int]) -> int:
        return asyncio.run(coroutine)


@app.task(name="leap", base=BaseTask, bind=True)
def learn(self: BaseTask) -> int:
    return self.run_async(_learn())


async def _learn() -> int:
    async with get_async_session_maker()() as session:
        return int((await session.execute(text("SELECT 42"))).scalar_one())
