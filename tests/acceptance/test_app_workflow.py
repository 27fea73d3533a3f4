"""The application as its users meet it: real PostgreSQL, Redis, prefork workers, API and LLM server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import aiohttp
import psycopg
import pytest
import redis

from tests.acceptance.client import Client, ended, results
from tests.acceptance.stack import START_TIMEOUT, Page, Stack, eventually, scrape, total
from tests.postgres import eventually_sessions

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def stack(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Stack]:
    with Stack.running(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url) as stack:
        yield stack


def _log_lines(database_url: str, task_id: str) -> int:
    with psycopg.connect(database_url.replace("+asyncpg", "")) as connection:
        row = connection.execute("SELECT count(*) FROM execution_logs WHERE task_id = %s", [task_id]).fetchone()
    assert row is not None
    return int(row[0])


def test_a_roadmap_goes_to_completion_through_review(stack: Stack) -> None:
    stack.start_llm()
    stack.start_api()
    workers = stack.start_workers()
    client = Client(stack.api)

    approved = client.begin("Learn Python")
    rejected = client.begin("Lerne Käse machen 🧀")
    waiting = client.reaches(approved, "waiting_for_review")
    titles = [section["title"] for section in waiting["roadmap"]["sections"]]
    assert len(titles) >= 3
    assert all("Learn Python" in title for title in titles)
    assert waiting["review"] is None

    # Two at the same moment, then one more: the first of them counts.
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: client.review(approved, approved=True, feedback="good"), range(2)))
    assert sorted(answer.status for answer in both) == [202, 409]
    done = client.reaches(approved, "completed", "failed")
    assert done["state"] == "completed", done
    assert [section["title"] for section in done["roadmap"]["sections"]] == titles
    assert all(section["content"] for section in done["roadmap"]["sections"])
    assert done["review"] == {"approved": True, "feedback": "good"}
    third = client.review(approved, approved=False)
    assert third.status == 409
    assert "reviewed already" in third.body["error"]["message"]
    eventually(lambda: "workflow_completed_after_review" in workers[2].output)
    assert "db_engine_created_for_event_loop" in workers[2].output

    client.reaches(rejected, "waiting_for_review")
    assert client.review(rejected, approved=False, feedback="zu kurz").status == 202
    refused = client.reaches(rejected, "failed")
    assert refused["error"] == "Rejected in review: zu kurz"
    assert not any(section["content"] for section in refused["roadmap"]["sections"])

    # The outline, the review, each section and the end; of the other one, the outline and the review. Each is a task,
    # and so is its line in the log.
    lines = 3 + len(titles)
    statuses = {result["status"] for result in ended(stack.environment["REDIS_URL"], 2 * (lines + 2))}
    assert statuses == {"SUCCESS"}
    assert _log_lines(stack.environment["DATABASE_URL"], approved) == lines


def test_what_clients_get_wrong_is_named_and_nothing_is_enqueued(stack: Stack) -> None:
    stack.start_api()
    client = Client(stack.api)
    bodies: list[tuple[object, str]] = [
        (b"{", "body"),
        (b"[" * 10_000, "body"),
        ([], "body"),
        ({}, "query"),
        ({"query": None}, "query"),
        ({"query": 5}, "query"),
        ({"query": " \n"}, "query"),
        ({"query": "x" * 501}, "query"),
        ({"query": "a\0b"}, "query"),
        (rb'{"query": "\ud800"}', "query"),
    ]
    for body, field in bodies:
        answer = client.post("/api/v1/generation/roadmap", body)
        assert (answer.status, answer.body["error"]["field"]) == (400, field), body
        assert answer.body["error"]["message"]

    assert client.post("/api/v1/generation/roadmap", {"query": "x" * 70_000}).status == 413
    assert client.get("/api/v1/tasks/none").status == 404
    assert client.get(f"/api/v1/tasks/{uuid4()}").status == 404
    assert client.get(f"/api/v1/tasks/{uuid4()}/events").status == 404
    assert client.review(str(uuid4()), approved=True).status == 404
    assert client.get("/metrics").status == 404

    begun = client.begin("Learn Go")  # no worker runs, so it stays where it is
    assert client.post(f"/api/v1/tasks/{begun}/review", {}).body["error"]["field"] == "approved"
    early = client.review(begun, approved=True)
    assert early.status == 409
    assert "pending" in early.body["error"]["message"]
    with redis.Redis.from_url(stack.environment["REDIS_URL"]) as broker:
        assert broker.llen("roadmap_workflow") == 1
        assert broker.llen("logs") == broker.llen("content") == 0


async def test_the_web_socket_relays_notifications(stack: Stack) -> None:
    stack.start_llm()
    stack.start_api()
    client = Client(stack.api)
    task_id = client.begin("Learn Rust")
    events = []
    reviews = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{stack.api}/api/v1/tasks/{task_id}/events") as socket,
    ):
        first = await socket.receive_json(timeout=60)
        assert first == {"task_id": task_id, "event": "state", "state": "pending"}
        # Read all the time: who does not answer the server's pings for a while is taken to have left.
        async with asyncio.timeout(START_TIMEOUT + 60), asyncio.TaskGroup() as beside:
            beside.create_task(asyncio.to_thread(stack.start_workers))
            async for message in socket:
                event = message.json()
                events.append(event["state"] if event["event"] == "state" else event["event"])
                if event.get("state") == "waiting_for_review":
                    assert event["title"]
                    reviews.append(beside.create_task(asyncio.to_thread(client.review, task_id, approved=True)))
    assert [review.result().status for review in reviews] == [202]
    assert events[:2] == ["generating_outline", "waiting_for_review"]
    assert "section_completed" in events
    assert events[-1] == "completed"


def test_a_step_that_fails_ends_the_workflow(stack: Stack) -> None:
    broker = stack.environment["REDIS_URL"]
    # The LLM and the notifications are down; the broker is not.
    stack.environment |= {
        "LLM_BASE_URL": "http://127.0.0.1:9/v1",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": broker,
    }
    stack.start_api()
    [worker] = stack.start_workers("celery_workflow")
    client = Client(stack.api)
    task = client.reaches(client.begin("Learn C"), "failed")
    assert "Connection error" in task["error"]
    stack.wait_for_line(worker, '"event": "failed_to_send_failure_notification"')
    assert '"event": "task_marked_as_failed"' in worker.output
    assert '"event": "notification_publish_failed"' in worker.output
    [result] = eventually(lambda: [result for result in results(broker) if result["status"] == "FAILURE"])
    assert result["queue"] == "roadmap_workflow"


def test_a_step_over_its_soft_time_limit_ends_the_workflow_and_gives_its_connection_back(stack: Stack) -> None:
    stack.start_llm("--delay", "600")
    stack.start_api()
    options = "--queues=roadmap_workflow --concurrency=1 --soft-time-limit=2"
    worker = stack.start("worker", *f"celery -A app.core.celery_app worker {options}".split())
    stack.wait_for_line(worker, " ready.")
    client = Client(stack.api)
    for query in ("Learn waiting", "Learn more of it"):
        task_id = client.begin(query)
        assert "SoftTimeLimitExceeded" in client.reaches(task_id, "failed")["error"]
        stack.wait_for_line(worker, f'"task_id": "{task_id}", "error": "SoftTimeLimitExceeded')
    assert eventually_sessions(stack.environment["DATABASE_URL"], 0, "state LIKE 'idle in%%'", deadline=60) == 0


def test_a_step_whose_process_is_killed_does_not_hang_for_ever(stack: Stack) -> None:
    stack.start_llm("--delay", "600")
    stack.start_api()
    [worker] = stack.start_workers("celery_workflow")
    client = Client(stack.api)
    task_id = client.begin("Learn C++")
    client.reaches(task_id, "generating_outline")
    [child] = worker.children()
    os.kill(child, signal.SIGKILL)
    assert "WorkerLostError" in client.reaches(task_id, "failed")["error"]


def test_a_step_that_did_its_work_counts_though_its_result_is_lost(stack: Stack) -> None:
    stack.start_llm()
    stack.start_api()
    [worker] = stack.start_workers("celery_workflow")
    client = Client(stack.api)
    task_id = client.begin("Learn patience")
    client.reaches(task_id, "waiting_for_review")
    worker.stop()

    def fails(step: str, why: str) -> None:
        meta = {"status": "FAILURE", "result": {"exc_type": "ConnectionError", "exc_message": why}}
        with redis.Redis.from_url(stack.environment["REDIS_URL"]) as backend:
            backend.set(f"celery-task-meta-{task_id}.{step}", json.dumps(meta))

    fails("outline", "the broker was away")
    assert client.review(task_id, approved=True).status == 202
    assert client.task(task_id)["state"] == "resuming"
    fails("resume", "so it was for the next")
    assert "so it was for the next" in client.reaches(task_id, "failed")["error"]


def test_one_api_process_can_be_scraped_itself(stack: Stack) -> None:
    stack.environment["APP_METRICS"] = "direct"
    stack.start_api()
    eventually(lambda: Client(stack.api).get("/health").status == 200)
    page = eventually(lambda: _with_a_connection(scrape(f"{stack.api}/metrics")))
    assert total(page, "loopwatch_loop_conflicts_total") == 0


def _with_a_connection(page: Page) -> Page | None:
    return page if total(page, "loopwatch_pool_connections", state="idle") >= 1 else None


def test_several_api_processes_behind_gunicorn(stack: Stack) -> None:
    stack.environment["WEB_CONCURRENCY"] = "2"
    api = stack.start_api()
    client = Client(stack.api)
    eventually(lambda: client.get("/health").body["status"] == "ok")
    assert client.task(client.begin("Learn SQL"))["state"] == "pending"
    assert api.stop(timeout=60) == 0
