"""An engine that is dropped while its loop runs: one for each call, say. Only the garbage collector ends it."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from sqlalchemy import text

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.postgres import eventually_sessions


@pytest.mark.filterwarnings("ignore:unclosed connection:ResourceWarning")  # asyncpg's, which is terminated then
@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")  # psycopg's
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_its_session_goes_and_nothing_is_logged(
    database_url: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        engine = loopwatch.create_async_engine(database_url.replace("asyncpg", driver), name="dropped")
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def call() -> int:
        await use()
        gc.collect()
        return await asyncio.to_thread(eventually_sessions, database_url, 0)

    labels = ("dropped", "explicit")
    before = STATS.value(catalogue.ENGINES_DISPOSED, labels)
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(call()) == 0
    assert caplog.messages == []
    assert STATS.value(catalogue.ENGINES_DISPOSED, labels) == before + 1
