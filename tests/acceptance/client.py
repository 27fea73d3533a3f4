"""A client of the application's API, as small as the tests need it; and what Celery's result backend holds."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib import error, request

import redis

from tests.acceptance.stack import eventually

__all__ = ["Answer", "Client", "ended", "results"]


class Answer(NamedTuple):
    """A status and a JSON body."""

    status: int
    body: Any


class Client:
    """Speaks JSON to one API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Answer:
        return self._send(request.Request(self.url + path))

    def post(self, path: str, body: object) -> Answer:
        """Posts ``body`` as JSON, or as it is when it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._send(request.Request(self.url + path, data, {"Content-Type": "application/json"}))

    def begin(self, query: str) -> str:
        """Begins a roadmap; returns the task's id."""
        answer = self.post("/api/v1/generation/roadmap", {"query": query})
        assert answer.status == 202, answer
        task_id: str = answer.body["task_id"]
        return task_id

    def review(self, task_id: str, *, approved: bool, feedback: str | None = None) -> Answer:
        return self.post(f"/api/v1/tasks/{task_id}/review", {"approved": approved, "feedback": feedback})

    def task(self, task_id: str) -> Any:
        return self.get(f"/api/v1/tasks/{task_id}").body

    def reaches(self, task_id: str, *states: str, timeout: float = 60.0) -> Any:
        """Waits until the task is in one of ``states``; returns it."""

        def look() -> Any:
            task = self.task(task_id)
            return task if task["state"] in states else None

        return eventually(look, timeout=timeout, what=f"{task_id} in {states}; now {self.task(task_id)}")

    def _send(self, message: request.Request) -> Answer:
        try:
            with request.urlopen(message, timeout=60) as answer:
                return Answer(answer.status, json.load(answer))
        except error.HTTPError as refused:
            with refused:
                return Answer(refused.code, json.load(refused))


def results(url: str) -> list[dict[str, Any]]:
    """Every result that Celery's backend holds: status, queue, result, traceback ..."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        keys = list(client.scan_iter("celery-task-meta-*"))
        return [json.loads(text) for text in client.mget(keys) if text] if keys else []


def ended(url: str, number: int) -> list[dict[str, Any]]:
    """The results of so many tasks, once all of them have ended: what a task did is seen sooner, and so is that it has
    sent another one, which nobody may have begun yet."""

    def look() -> list[dict[str, Any]] | None:
        found = results(url)
        return found if len(found) == number and all(one["status"] != "STARTED" for one in found) else None

    return eventually(look, timeout=120, what=f"{number} tasks have ended")
