"""Everything at module level, and since an incident a loop of the process's own with a guard against forks."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

from openai import AsyncOpenAI
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.acceptance.adoption.celery_app import HTTP_URL, REDIS_URL, app, database

engine = create_async_engine(database("agentic"))
redis = Redis.from_url(REDIS_URL)
llm = AsyncOpenAI(api_key="none", base_url=HTTP_URL, timeout=30)
_loop: tuple[int, asyncio.AbstractEventLoop] | None = None


def run(coroutine: Coroutine[Any, Any, int]) -> int:
    global _loop
    if _loop is None or _loop[0] != os.getpid():
        _loop = (os.getpid(), asyncio.new_event_loop())
    return _loop[1].run_until_complete(coroutine)


@app.task(name="agentic")
def act() -> int:
    return run(_act())


async def _act() -> int:
    async with engine.connect() as connection:
        found = int((await connection.execute(text("SELECT 42"))).scalar_one())
    await redis.set("acted", found)
    await llm.chat.completions.create(model="local", messages=[{"role": "user", "content": "Hi"}])
    return found
