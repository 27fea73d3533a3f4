"""One engine for all calls; the method ``run_async`` stays."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from celery import Task
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker

import loopwatch
from tests.acceptance.adoption.celery_app import app, database

engine = loopwatch.create_async_engine(database("leap"))


def get_async_session_maker() -> async_sessionmaker[Any]:
    return async_sessionmaker(engine, expire_on_commit=False)


class BaseTask(Task):  # type: ignore[type-arg]
    abstract = True

    def run_async(self, coroutine: Coroutine[Any, Any, int]) -> int:
        return loopwatch.run_async(coroutine)


@app.task(name="leap", base=BaseTask, bind=True)
def learn(self: BaseTask) -> int:
    return self.run_async(_learn())


async def _learn() -> int:
    async with get_async_session_maker()() as session:
        return int((await session.execute(text("SELECT 42"))).scalar_one())
