"""Who waits for a connection, and for how long: no event of SQLAlchemy's marks the start of a wait."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS

HELD = 0.2
"""Seconds that the only connection is held while another task waits for it."""


def _waiting() -> float:
    value = STATS.gauges()[catalogue.POOL_PENDING_REQUESTS.wire_name][("waiters",)]
    assert not isinstance(value, list)
    return value


def _waited() -> tuple[float, float]:
    """Waits, and their seconds."""
    cell = STATS.counters()[catalogue.POOL_WAIT.wire_name][("", "waiters")]
    assert isinstance(cell, list)
    return sum(cell[:-1]), cell[-1]


async def test_a_wait_is_seen_while_it_lasts_and_timed_from_its_start(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, name="waiters", pool_size=1, max_overflow=0)

    async def ask() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        before, seconds_before = _waited()
        assert _waiting() == 0
        other = asyncio.create_task(ask())
        async with asyncio.timeout(60):
            while _waiting() != 1:  # noqa: ASYNC110  # a gauge has no event to wait for
                await asyncio.sleep(0.01)
        await asyncio.sleep(HELD)
        assert not other.done()
    await other
    waits, seconds = _waited()
    assert waits == before + 1
    assert seconds - seconds_before >= HELD
    assert _waiting() == 0
