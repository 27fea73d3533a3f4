"""A lazy engine whose arguments come from a dictionary, on MySQL; one loop thread a process."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cached_property
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.acceptance.adoption.celery_app import app, database

ENGINE_OPTIONS = {"pool_size": 100, "max_overflow": 20, "pool_recycle": 3600}


class Database:
    @cached_property
    def engine(self) -> AsyncEngine:
        return create_async_engine(database("bisheng", "mysql+aiomysql"), **ENGINE_OPTIONS)


db = Database()
_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def run_on_loop(coroutine: Coroutine[Any, Any, int]) -> int:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, daemon=True).start()
    return asyncio.run_coroutine_threadsafe(coroutine, _loop).result()


@app.task(name="bisheng")
def answer() -> int:
    return run_on_loop(_answer())


async def _answer() -> int:
    async with db.engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
