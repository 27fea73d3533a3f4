"""The aiohttp application: its routes, and what begins and ends with the process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from weakref import WeakSet

from aiohttp import web

import loopwatch
from app.api import events, generation, health, tasks
from app.api.errors import errors_as_json
from app.api.metrics import metrics_routes
from app.core.celery_app import celery_app
from app.core.config import get_settings
from app.core.logging import configure_logging
from app.db.session import get_engine

__all__ = ["create_app"]

MAX_BODY = 64 * 1024
"""Bytes; a query has 500 characters at most."""


async def create_app() -> web.Application:
    """One process's application; gunicorn's aiohttp worker calls it on the loop that will serve."""
    settings = get_settings()
    configure_logging(settings.celery_log_level)
    app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY)
    app[events.SOCKETS] = WeakSet()
    for module in (generation, tasks, events, health):
        app.add_routes(module.routes)
    if settings.app_metrics == "direct":
        app.add_routes(metrics_routes())
    else:
        app.cleanup_ctx.append(_reporting)
    app.on_shutdown.append(events.close_sockets)
    app.cleanup_ctx.append(_engine)
    return app


async def _reporting(app: web.Application) -> AsyncIterator[None]:
    with loopwatch.report(celery_app, name="api"):
        yield


async def _engine(app: web.Application) -> AsyncIterator[None]:
    yield
    await get_engine().dispose()
