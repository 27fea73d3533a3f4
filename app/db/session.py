"""The engine and its sessions: made once at import, right on every event loop, in the API and in the workers.

With ``APP_RESOURCES=global`` the same few lines are the disease: SQLAlchemy's own engine keeps the connections of
the first ``asyncio.run`` in its pool and hands them to the next one, whose loop is another.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from typing import Any

import structlog
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

import loopwatch
from app.core.config import Settings, get_settings

__all__ = ["AsyncSessionLocal", "get_engine", "pool_numbers"]

logger = structlog.get_logger(__name__)


def _make_engine(settings: Settings) -> AsyncEngine:
    # Pinged, as most applications do: what a restart of the database left in the pool is replaced and not handed out.
    options: dict[str, Any] = {**settings.connection_budget().pool_options(), "pool_pre_ping": True}
    if settings.app_resources == "loop_aware":
        return loopwatch.create_async_engine(settings.database_url, **options)
    del options["budget"]  # only our pool can tell when there are more loops than planned
    return loopwatch.observe(create_async_engine(settings.database_url, **options))


_engine = _make_engine(get_settings())
_sessions = async_sessionmaker(_engine, expire_on_commit=False)
_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_loop_ids = itertools.count(1)
_invalid = 0


@event.listens_for(_engine.sync_engine, "invalidate")
def _count_invalidation(*_: object) -> None:
    global _invalid
    _invalid += 1


def get_engine() -> AsyncEngine:
    """The one engine of the process."""
    return _engine


def AsyncSessionLocal() -> AsyncSession:  # noqa: N802  # the name that the code before loopwatch had
    """A new session; to be used on the running loop and closed there."""
    loop = asyncio.get_running_loop()
    if isinstance(_engine.pool, loopwatch.LoopAwarePool) and loop not in _loops:
        _loops.add(loop)
        # A number of our own: id(loop) is used again as soon as a loop is gone.
        logger.info("db_engine_created_for_event_loop", loop_id=next(_loop_ids))
    return _sessions()


def pool_numbers() -> dict[str, int]:
    """What the engine holds now: sizes over all loops that have a pool, and how many of those there are."""
    pool = _engine.pool
    assert isinstance(pool, QueuePool)
    loops = len(pool.loops) if isinstance(pool, loopwatch.LoopAwarePool) else 1
    return {
        "pool_size": pool.size(),
        "checked_out": pool.checkedout(),
        "idle": pool.checkedin(),
        "overflow": max(pool.overflow(), 0),
        "invalid": _invalid,
        "loops": loops,
    }
