"""`create_session()`: the only door to the database, the same on every loop, in the API and in the workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from app.db.session import AsyncSessionLocal

__all__ = ["create_session"]


@asynccontextmanager
async def create_session() -> AsyncIterator[AsyncSession]:
    """A session in a transaction: committed at the end of the block, rolled back when an exception leaves it."""
    async with AsyncSessionLocal() as session, session.begin():
        yield session
