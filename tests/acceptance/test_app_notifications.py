"""What the application logs when an auxiliary or a critical part of it fails, with real and with absent servers."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import warnings
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis
from redis.asyncio import Redis, from_url
from structlog.testing import capture_logs
from structlog.typing import EventDict

from app.core.config import get_settings

NOWHERE = "127.0.0.1:9"  # the port of "discard": nobody listens there
TASK = uuid4()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules read the settings when they are imported: hence the imports within the functions."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql+asyncpg://app@{NOWHERE}/app")
    monkeypatch.setenv("REDIS_URL", f"redis://{NOWHERE}/0")
    get_settings.cache_clear()
    # A server that answers may be as slow as the machine.
    monkeypatch.setattr("app.services.notification_service.PUBLISH_TIMEOUT", 60)
    yield
    get_settings.cache_clear()


async def _publish(client: Redis) -> tuple[bool, list[EventDict]]:
    from app.services.notification_service import NotificationService

    with capture_logs() as lines:
        return await NotificationService(client).publish_failed(TASK, "Käse"), lines


async def test_notifications_are_readable_json(redis_url: str) -> None:
    from app.services.notification_service import channel

    async with from_url(redis_url) as client:
        with redis.Redis.from_url(redis_url) as reader, reader.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(channel(TASK))
            pubsub.get_message(timeout=60)
            assert await _publish(client) == (True, [])
            message = pubsub.get_message(timeout=60)
    assert message is not None
    text = message["data"].decode()
    assert "Käse" in text
    assert json.loads(text) == {"task_id": str(TASK), "event": "state", "state": "failed", "error": "Käse"}


async def test_a_server_that_does_not_answer_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.notification_service.PUBLISH_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with from_url(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as client:
            sent, [line] = await _publish(client)
    assert not sent
    assert line["event"] == "notification_publish_timeout"
    assert line["log_level"] == "warning"


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async with from_url(f"redis://{NOWHERE}/0") as client:
        sent, [line] = await _publish(client)
    assert not sent
    assert line["event"] == "notification_publish_failed"
    assert "Event loop conflict" not in line["error"]


def test_a_client_of_another_loop_is_a_conflict(redis_url: str) -> None:
    client: Redis = from_url(redis_url)
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        # The disease leaves a socket behind, that of the loop that is closed.
        assert asyncio.run(_publish(client)) == (True, [])
        sent, [line] = asyncio.run(_publish(client))
        del client
        gc.collect()
    assert not sent
    assert line["event"] == "notification_publish_failed"
    assert line["error"].startswith("Event loop conflict: ")


async def test_a_task_that_cannot_be_marked_as_failed_is_an_error_that_is_raised() -> None:
    from app.tasks.run import _mark_task_failed

    with capture_logs() as lines, pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await _mark_task_failed(TASK, ValueError("no"))
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["failed_to_update_task_status"]
    assert "task_marked_as_failed" not in {line["event"] for line in lines}
