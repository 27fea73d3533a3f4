"""``python -m app.db.create``: makes the tables that are missing. Safe to run again, and by several at once."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.core.config import get_settings
from app.db.models import Base

__all__ = ["create_tables"]

LOCK = 7_105_161
"""Any number that only this command locks: PostgreSQL's CREATE TABLE IF NOT EXISTS fails in a race."""


async def create_tables(database_url: str) -> None:
    """Makes the missing tables in one transaction; whoever comes second waits for the first."""
    engine = create_async_engine(database_url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(create_tables(get_settings().database_url))
