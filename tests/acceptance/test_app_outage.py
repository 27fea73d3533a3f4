"""An outage after the start is shown by /health and survived by the API and the workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.client import Client, results
from tests.acceptance.gate import Gate
from tests.acceptance.stack import Stack, eventually

pytestmark = pytest.mark.timeout(400)


class Gated(Stack):
    """A stack whose database, notifications and broker can be cut off, each by itself."""

    database: Gate
    redis: Gate
    broker: Gate


@pytest.fixture
def stack(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Gated]:
    with ExitStack() as opened:
        database, through_database = opened.enter_context(Gate.before(database_url))
        redis, through_redis = opened.enter_context(Gate.before(redis_url))
        broker, through_broker = opened.enter_context(Gate.before(redis_url))
        stack = opened.enter_context(
            Gated.running(
                tmp_path,
                DATABASE_URL=through_database,
                REDIS_URL=through_redis,
                CELERY_BROKER_URL=through_broker,
                CELERY_RESULT_BACKEND=through_broker,
            )
        )
        assert isinstance(stack, Gated)
        stack.database, stack.redis, stack.broker = database, redis, broker
        stack.start_llm()
        stack.start_api()
        stack.start_workers()
        yield stack


def _completes(client: Client, query: str) -> None:
    task_id = client.begin(query)
    client.reaches(task_id, "waiting_for_review")
    assert client.review(task_id, approved=True).status == 202
    client.reaches(task_id, "completed", timeout=60)


def test_outages_are_shown_and_survived(stack: Gated, redis_url: str) -> None:
    client = Client(stack.api)

    def health() -> tuple[int, str, str, str]:
        status, body = client.get("/health")
        return status, body["database"]["status"], body["redis"]["status"], body["broker"]["status"]

    eventually(lambda: health() == (200, "up", "up", "up"))
    numbers = client.get("/health").body["database"]
    assert {"pool_size", "checked_out", "idle", "overflow", "invalid", "loops"} <= set(numbers)
    _completes(client, "before")

    stack.database.close()
    eventually(lambda: health() == (503, "down", "up", "up"))
    answer = client.post("/api/v1/generation/roadmap", {"query": "Learn patience"})
    assert answer.status == 503
    assert answer.body["error"]["message"] == "the database is not reachable"
    stack.database.open()
    eventually(lambda: health() == (200, "up", "up", "up"))
    _completes(client, "after the database")

    # Notifications are auxiliary: the workflow goes on without them.
    stack.redis.close()
    eventually(lambda: health() == (200, "up", "down", "up"))
    eventually(lambda: client.get("/health").body["status"] == "degraded")
    _completes(client, "without notifications")
    assert client.get(f"/api/v1/tasks/{client.begin('deaf')}/events").status == 503
    stack.redis.open()
    eventually(lambda: health() == (200, "up", "up", "up"))

    waiting = client.begin("reviewed in an outage")
    client.reaches(waiting, "waiting_for_review")
    # Its task ends a little later. One whose result finds no backend is a step that has failed.
    outline = (f"{waiting}.outline", "SUCCESS")
    eventually(lambda: outline in {(one["task_id"], one["status"]) for one in results(redis_url)})
    stack.broker.close()
    eventually(lambda: health() == (503, "up", "up", "down"))
    assert client.post("/api/v1/generation/roadmap", {"query": "Learn patience"}).status == 503
    assert client.review(waiting, approved=True).status == 503
    assert client.task(waiting)["state"] == "waiting_for_review"
    stack.broker.open()
    eventually(lambda: health() == (200, "up", "up", "up"))
    assert client.review(waiting, approved=True).status == 202
    client.reaches(waiting, "completed", timeout=90)
    _completes(client, "after the broker")
