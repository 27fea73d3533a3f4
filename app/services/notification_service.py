"""Notifications of a task's progress by Redis pub/sub: auxiliary, so they may fail and never disturb what matters."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from redis.asyncio import Redis, from_url

import loopwatch
from app.core.config import Settings, get_settings
from app.services.states import State

__all__ = ["NotificationService", "notification_service"]

logger = structlog.get_logger(__name__)

PUBLISH_TIMEOUT = 5.0
"""Seconds that a notification may take, connecting included."""


class NotificationService:
    """Publishes a task's events to its channel, and reads them back for the WebSocket."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def publish_state(self, task_id: UUID, state: State, **details: Any) -> bool:
        """Tells that the task has reached ``state``; False when the notification failed."""
        return await self._publish(task_id, {"event": "state", "state": state, **details})

    async def publish_section(self, task_id: UUID, position: int, title: str) -> bool:
        """Tells that a section is written; False when the notification failed."""
        return await self._publish(task_id, {"event": "section_completed", "position": position, "title": title})

    async def publish_failed(self, task_id: UUID, error: str) -> bool:
        """Tells that the task has failed; False when the notification failed."""
        return await self.publish_state(task_id, State.FAILED, error=error)

    async def ping(self) -> None:
        """Returns when Redis answers; raises redis' errors."""
        await self._client.ping()

    async def _publish(self, task_id: UUID, event: dict[str, Any]) -> bool:
        # The client connects when it is first used on a loop, and again when its connection was lost.
        async with loopwatch.tolerated(
            "notify", timeout=PUBLISH_TIMEOUT, on_failure=lambda failure: _warn(task_id, failure.reason, failure.error)
        ) as attempt:
            message = json.dumps({"task_id": str(task_id), **event}, ensure_ascii=False)
            await self._client.publish(channel(task_id), message)
        return not attempt.failed

    @asynccontextmanager
    async def subscribe(self, task_id: UUID) -> AsyncIterator[AsyncIterator[str]]:
        """The task's notifications (JSON) from now on, without end; raises redis' errors."""
        async with self._client.pubsub() as pubsub:
            await pubsub.subscribe(channel(task_id))
            # Redis' confirmation: what is published from here on arrives.
            await pubsub.get_message(timeout=PUBLISH_TIMEOUT)
            yield (_text(message["data"]) async for message in pubsub.listen() if message["type"] == "message")


def _warn(task_id: UUID, reason: str, error: Exception) -> None:
    if reason == "timeout":
        logger.warning("notification_publish_timeout", task_id=str(task_id), timeout=PUBLISH_TIMEOUT)
    else:
        prefix = "Event loop conflict: " if reason == "loop_conflict" else ""
        logger.warning("notification_publish_failed", task_id=str(task_id), error=f"{prefix}{error}")


def _text(data: bytes | str) -> str:
    return data.decode() if isinstance(data, bytes) else data


def channel(task_id: UUID) -> str:
    """The pub/sub channel of a task."""
    return f"app:task:{task_id}"


def _make_client(settings: Settings) -> Redis:
    if settings.app_resources == "loop_aware":
        return loopwatch.redis_from_url(settings.redis_url, name="notifications")
    client: Redis = from_url(settings.redis_url)  # its annotations say Any
    return client


notification_service = NotificationService(_make_client(get_settings()))
