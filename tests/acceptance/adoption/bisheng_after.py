"""The same dictionary, with the pool's class; the loop thread is loopwatch's."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from functools import cached_property
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import loopwatch
from tests.acceptance.adoption.celery_app import app, database

ENGINE_OPTIONS: dict[str, Any] = {"pool_size": 10, "poolclass": loopwatch.LoopAwarePool, "pool_recycle": 3600}


class Database:
    @cached_property
    def engine(self) -> AsyncEngine:
        return create_async_engine(database("bisheng", "mysql+aiomysql"), **ENGINE_OPTIONS)


db = Database()
run_on_loop = loopwatch.run_async


@app.task(name="bisheng")
def answer() -> int:
    return run_on_loop(_answer())


async def _answer() -> int:
    async with db.engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
