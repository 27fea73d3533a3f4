"""The monitor beside real prefork workers of an application without the library."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.integration.monitor_process import DEADLINE, Monitor, running_monitor, running_worker, until


@pytest.fixture
def monitor(redis_url: str, tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(redis_url, tmp_path, "--worker-timeout", "60", "--purge-offline-worker-metrics", "0") as found:
        yield found


def send(broker: str, tasks: dict[str, int], queue: str) -> None:
    with Celery(broker=broker, set_as_current=False) as app:
        app.conf.update(task_send_sent_event=True, task_ignore_result=True)
        for name, number in tasks.items():
            for _ in range(number):
                app.send_task(name, queue=queue)


def test_every_task_of_two_workers_is_counted(monitor: Monitor, redis_url: str, tmp_path: Path) -> None:
    logs, content = ("ok", "logs@here", "logs"), ("ok", "content@here", "content")
    with (
        running_worker(redis_url, tmp_path, "logs@here", "logs"),
        running_worker(redis_url, tmp_path, "content@here", "content"),
    ):
        until(lambda: len(monitor.series("celery_worker_up")) == 2, "two workers")
        send(redis_url, {"ok": 40, "bad": 3, "again": 2, "conflict": 4}, "logs")
        send(redis_url, {"ok": 10}, "content")
        until(
            lambda: (
                monitor.value("celery_task_succeeded_total") == 50 and monitor.value("celery_task_failed_total") == 9
            ),
            "the end of all tasks",
        )
        # Told by other connections than the end of the tasks. A retry is sent again, by the worker.
        sent = 40 + 3 + 2 * 2 + 4 + 10
        until(lambda: monitor.value("celery_task_sent_total") == sent, "the sendings")
        assert monitor.series("celery_task_succeeded_total") == {logs: 40, content: 10}
        assert monitor.series("celery_task_failed_total") == {
            ("bad", "logs@here", "logs", "KeyError"): 3,
            ("again", "logs@here", "logs", "ValueError"): 2,
            ("conflict", "logs@here", "logs", "RuntimeError"): 4,
        }
        assert monitor.series("celery_task_retried_total") == {("again", "logs@here", "logs"): 2}
        assert monitor.value("celery_task_started_total") == sent
        assert monitor.series("celery_task_runtime_count") == {logs: 40, content: 10}
        assert monitor.series("celery_task_queue_wait_time_count")[logs] == 40
        assert monitor.series("celery_worker_up") == {("logs@here",): 1, ("content@here",): 1}

        # Held until a snapshot would have come.
        until(lambda: monitor.value("loopwatch_loop_conflicts_total") == 4, "the conflicts")
        assert set(monitor.series("loopwatch_loop_conflicts_total")) == {
            ("logs@here", "logs", "conflict", "asyncio", "closed_loop", "event")
        }
        last = monitor.series("loopwatch_loop_conflict_last_timestamp_seconds")
        assert last["logs@here",] > 0
        assert last["content@here",] == 0
        assert sum(monitor.series("loopwatch_monitor_events_malformed_total").values()) == 0

    until(lambda: monitor.value("celery_worker_up") == 0, "both workers' goodbye")
    assert monitor.series("celery_task_succeeded_total") == {logs: 40, content: 10}


def test_pages_and_stop(monitor: Monitor, redis_url: str) -> None:
    status, content_type, landing = monitor.get("/")
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert 'href="metrics"' in landing
    status, content_type, _ = monitor.get("/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    status, _, health = monitor.get("/health")
    assert (status, json.loads(health)["status"]) == (200, "ok")
    assert monitor.get("/nothing")[0] == 404

    monitor.process.send_signal(signal.SIGTERM)
    assert monitor.process.wait(DEADLINE) == 0
    password = redis_url.split("@")[0].rpartition(":")[2]
    assert password not in monitor.log.read_text()
