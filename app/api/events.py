"""``GET /api/v1/tasks/{id}/events``: a WebSocket that relays the task's notifications from Redis pub/sub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from weakref import WeakSet

import structlog
from aiohttp import WSCloseCode, web
from redis.exceptions import RedisError

from app.api.requests import task_id_of
from app.services import roadmap_service
from app.services.notification_service import notification_service
from app.services.states import State

__all__ = ["close_sockets", "routes"]

logger = structlog.get_logger(__name__)
routes = web.RouteTableDef()

SOCKETS = web.AppKey("sockets", WeakSet[web.WebSocketResponse])


@routes.get("/api/v1/tasks/{task_id}/events")
async def relay_events(request: web.Request) -> web.StreamResponse:
    """The state now, then every notification, until the workflow has ended; 404, 503 without Redis."""
    task_id = task_id_of(request)
    try:
        async with notification_service.subscribe(task_id) as notifications:
            # After the subscription began, so that nothing falls between the two.
            task = await roadmap_service.show(task_id)
            if task is None:
                raise web.HTTPNotFound(reason="there is no such task")
            socket = web.WebSocketResponse(heartbeat=30)
            await socket.prepare(request)
            request.app[SOCKETS].add(socket)
            now = {"task_id": str(task_id), "event": "state", "state": task["state"]}
            await _serve(socket, json.dumps(now), notifications)
            return socket
    except RedisError as error:
        logger.warning("events_not_available", task_id=str(task_id), error=str(error))
        raise web.HTTPServiceUnavailable(reason="notifications are not available") from error


async def _serve(socket: web.WebSocketResponse, now: str, notifications: AsyncIterator[str]) -> None:
    relay = asyncio.create_task(_relay(socket, now, notifications))
    try:
        # Clients have nothing to say: reading is how their leaving is noticed.
        async for _ in socket:
            pass
    finally:
        relay.cancel()
        with suppress(asyncio.CancelledError):
            await relay


async def _relay(socket: web.WebSocketResponse, now: str, notifications: AsyncIterator[str]) -> None:
    try:
        await socket.send_str(now)
        if not _is_last(now):
            async for notification in notifications:
                await socket.send_str(notification)
                if _is_last(notification):
                    break
        await socket.close()
    except ConnectionError:
        pass  # the client has left
    except RedisError as error:
        logger.warning("events_interrupted", error=str(error))
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"notifications are not available")


def _is_last(notification: str) -> bool:
    event = json.loads(notification)
    return event.get("event") == "state" and State(event["state"]).final


async def close_sockets(app: web.Application) -> None:
    """At shutdown: open WebSockets would keep the process waiting."""
    for socket in [*app[SOCKETS]]:
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops")
