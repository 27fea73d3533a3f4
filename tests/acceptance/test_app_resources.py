"""``APP_RESOURCES``: the disease really happens and every conflict of it is counted once; the cure shows none."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import loopwatch
from tests.acceptance.client import Client, ended, results
from tests.acceptance.stack import Page, Stack, eventually, scrape, total
from tests.postgres import sessions

pytestmark = pytest.mark.timeout(400)

QUEUES = ("logs", "content", "roadmap_workflow")
ROADMAPS = 8


@pytest.fixture
def stack(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Stack]:
    with Stack.running(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url) as stack:
        stack.start_monitor()
        stack.start_llm()
        stack.start_api()
        yield stack


def _drive(stack: Stack) -> list[str]:
    """Begins roadmaps and approves each, until all of them have ended and no task waits or runs; returns their ids."""
    client = Client(stack.api)
    begun = [client.begin(f"Learn the number {number}") for number in range(ROADMAPS)]
    left = {*begun}
    deadline = time.monotonic() + 120
    while left:
        for task_id in left.copy():
            state = client.task(task_id)["state"]
            if state == "waiting_for_review":
                assert client.review(task_id, approved=True).status == 202
            elif state in ("completed", "failed"):
                left.discard(task_id)
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    url = stack.environment["REDIS_URL"]
    eventually(lambda: not _waiting(url) and {result["status"] for result in results(url)} <= {"SUCCESS", "FAILURE"})
    return begun


def _waiting(url: str) -> int:
    """How many tasks wait in the queues, or were taken from there and have not been begun."""
    with redis.Redis.from_url(url) as broker:
        return sum(int(broker.llen(queue)) for queue in QUEUES) + int(broker.hlen("unacked"))


def _is_conflict(result: dict[str, Any]) -> bool:
    return result["status"] == "FAILURE" and loopwatch.classify(result["traceback"]) is not None


def _by_queue(page: Page, name: str, **labels: str) -> dict[str, int]:
    counts = {queue: int(total(page, name, queue_name=queue, **labels)) for queue in QUEUES}
    return {queue: count for queue, count in counts.items() if count}


def _idle_in_transaction(stack: Stack) -> int:
    return sessions(stack.environment["DATABASE_URL"], "state = 'idle in transaction'")


def test_with_the_disease_every_conflict_is_counted_once(stack: Stack) -> None:
    stack.start_workers(APP_RESOURCES="global")
    # A healthy worker beside the sick one: without it no roadmap would get as far as its content.
    stack.start_workers("celery_workflow", CELERY_NODE_HOST="healthy")
    url = stack.environment["REDIS_URL"]

    def sick_queues() -> set[str]:
        return {result["queue"] for result in results(url) if _is_conflict(result)}

    # Which of the two takes which task is chance: users come until some got as far, and met the disease there.
    eventually(lambda: _drive(stack) and sick_queues() >= {"content", "roadmap_workflow"}, timeout=180)

    page: Page = {}
    in_errors: Counter[str] = Counter()

    def counted() -> bool:
        page.update(scrape(f"{stack.monitor}/metrics"))
        in_errors.clear()
        in_errors.update(result["queue"] for result in results(url) if _is_conflict(result))
        failed = _by_queue(page, "loopwatch_notification_failures_total", reason="loop_conflict")
        return _by_queue(page, "loopwatch_loop_conflicts_total") == dict(in_errors + Counter(failed))

    eventually(counted, what="each conflict is counted once")
    assert in_errors["roadmap_workflow"]
    assert in_errors["content"]
    assert total(page, "loopwatch_notification_failures_total", reason="loop_conflict") > 0
    assert total(page, "loopwatch_loop_conflicts_total", hostname="workflow@healthy") == 0
    assert _idle_in_transaction(stack) > 0


def test_with_the_cure_the_same_traffic_shows_none(stack: Stack) -> None:
    stack.start_workers(APP_RESOURCES="loop_aware")
    client = Client(stack.api)
    # The outline, the review, each section and the end. Each is a task, and so is its line in the log.
    steps = sum(3 + len(client.task(roadmap)["roadmap"]["sections"]) for roadmap in _drive(stack))
    statuses = {result["status"] for result in ended(stack.environment["REDIS_URL"], 2 * steps)}
    assert statuses == {"SUCCESS"}
    eventually(lambda: _idle_in_transaction(stack) == 0)

    def notified() -> Page | None:
        page = scrape(f"{stack.monitor}/metrics")
        sent = _by_queue(page, "loopwatch_notifications_total", operation="notify")
        # In the workflow's queue: two for the outline, one after the review, one at the end.
        # The API is no worker, and reports for itself, in its own time.
        by_api = total(page, "loopwatch_notifications_total", hostname=f"api@{socket.gethostname()}")
        return page if sent.get("roadmap_workflow") == 4 * ROADMAPS and by_api == ROADMAPS else None

    page = eventually(notified)
    assert total(page, "loopwatch_loop_conflicts_total") == 0
    assert total(page, "loopwatch_notification_failures_total") == 0
    assert total(page, "loopwatch_engines_orphaned") == 0
