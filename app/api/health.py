"""``GET /health``: the parts that the application stands on, 503 when a critical one is down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import structlog
from aiohttp import web
from sqlalchemy import text

from app.core.celery_app import celery_app
from app.db.session import pool_numbers
from app.repositories import repo_factory
from app.services.notification_service import notification_service

__all__ = ["routes"]

logger = structlog.get_logger(__name__)
routes = web.RouteTableDef()

TIMEOUT = 3
"""Seconds after which a part that does not answer is down."""


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """``ok``, ``degraded`` (no notifications: an auxiliary part) or ``down`` with 503."""
    database, redis, broker = await asyncio.gather(
        _is_up("database", _ask_database()),
        _is_up("redis", notification_service.ping()),
        _is_up("broker", asyncio.to_thread(_ask_broker)),
    )
    critical = database and broker
    status = "down" if not critical else "ok" if redis else "degraded"
    parts: dict[str, Any] = {
        "status": status,
        "database": {"status": _word(database), **pool_numbers()},
        "redis": {"status": _word(redis)},
        "broker": {"status": _word(broker)},
    }
    return web.json_response(parts, status=200 if critical else 503)


async def _is_up(part: str, question: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT):
            await question
    except Exception as error:  # noqa: BLE001
        # Whatever it is, the part does not work: that is what was asked.
        logger.warning("health_check_failed", part=part, error=str(error) or type(error).__name__)
        return False
    return True


async def _ask_database() -> None:
    async with repo_factory.create_session() as session:
        await session.execute(text("SELECT 1"))


def _ask_broker() -> None:
    with celery_app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=TIMEOUT)


def _word(up: bool) -> str:
    return "up" if up else "down"
