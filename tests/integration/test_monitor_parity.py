"""celery-exporter's place taken over, on real workers: what a page under load holds, and what a scrape costs others."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import redis
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from loopwatch.telemetry import catalogue
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.run import make_intake
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.ledger import Now
from tests.integration.monitor_process import Monitor, running_monitor, running_worker, until
from tests.unit.monitor.test_parity import expected, shown

SPEED = 20
SEEN_ON_RABBITMQ_ONLY = {"celery_active_consumer_count"}
NEVER_HERE = {"celery_task_revoked_total", "celery_task_rejected_total"}


def send(broker: str, name: str, queue: str, number: int = 1, *, sent_event: bool = True, priority: int = 0) -> None:
    with Celery(broker=broker, set_as_current=False) as app:
        app.conf.update(task_send_sent_event=sent_event, task_ignore_result=True)
        for _ in range(number):
            app.send_task(name, queue=queue, priority=priority)


@pytest.mark.timeout(300)
def test_a_page_under_load_and_the_scrapes_cost(redis_url: str, tmp_path: Path) -> None:
    with (
        running_monitor(redis_url, tmp_path, "-Q", "forgotten") as monitor,
        running_worker(redis_url, tmp_path, "logs@here", "logs"),
        running_worker(redis_url, tmp_path, "two@here", "logs,content"),
    ):
        for name in ("ok", "bad", "again", "conflict"):
            send(redis_url, name, "logs", 5)
        for priority in (0, 5, 9):
            send(redis_url, "ok", "forgotten", priority=priority)
        until(lambda: monitor.value("celery_task_started_total") >= 25, "the tasks")
        until(lambda: monitor.series("celery_queue_length").get(("forgotten",)) == 3, "the queue's length")
        until(
            lambda: monitor.series("celery_active_process_count") == {("logs",): 4, ("content",): 2, ("forgotten",): 0},
            "the workers' answers",
            seconds=150,  # they are asked each minute: an answer that came too late for one question is the next one's
        )
        until(lambda: monitor.value("celery_task_retried_total") == 5, "the retries")
        until(lambda: monitor.value("celery_task_succeeded_total") == 5, "the successes")
        until(lambda: monitor.series("loopwatch_queue_oldest_task_seconds").get(("forgotten",), 0) > 0, "the oldest")
        page = monitor.get("/metrics")[2]

        here = {name: what for name, what in expected() if name not in SEEN_ON_RABBITMQ_ONLY | NEVER_HERE}
        assert shown(page) == here
        names = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
        ours = {name for name in names if name.startswith(("celery_", "loopwatch_"))}
        assert ours <= set(catalogue.exposed_names())
        assert complaints_of_promtool(page) == {"celery_active_process_count", "celery_active_worker_count"}

        # No broadcast in a scrape: nothing is published but what the workers and the background publish anyway.
        with redis.Redis.from_url(redis_url) as client:
            until(lambda: nothing_under_way(monitor), "the end of a question")
            with client.monitor() as commands:
                for _ in range(5):
                    monitor.get("/metrics")
                client.echo("the end")
                for command in commands.listen():
                    assert "pidbox" not in command["command"]
                    if command["command"] == "ECHO the end":
                        break


def nothing_under_way(monitor: Monitor) -> bool:
    """The workers are asked each 60 seconds: no question waits for its answers, and none is due."""
    return monitor.series("loopwatch_monitor_poll_age_seconds")["workers",] < 20


def complaints_of_promtool(page: str) -> set[str]:
    """The names that it does not like, which must be for their suffix."""
    promtool = shutil.which("promtool")
    if promtool is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("promtool is missing: install prometheus")
    result = subprocess.run([promtool, "check", "metrics"], input=page.encode(), capture_output=True, check=False)
    complaints = result.stderr.decode().splitlines()
    assert all('should not have "_count" suffix' in line for line in complaints)
    return {line.split()[0] for line in complaints}


@pytest.mark.timeout(300)
def test_a_page_on_rabbitmq_has_them_all(rabbitmq_url: str, tmp_path: Path) -> None:
    with (
        running_monitor(rabbitmq_url, tmp_path) as monitor,
        running_worker(rabbitmq_url, tmp_path, "logs@here", "logs"),
    ):
        for name in ("ok", "bad", "again"):
            send(rabbitmq_url, name, "logs", 5)
        until(lambda: monitor.series("celery_active_consumer_count") == {("logs",): 1}, "the queue's consumers")
        counted = {("logs",): 2}
        until(lambda: monitor.series("celery_active_process_count") == counted, "the worker's answer", seconds=150)
        until(lambda: monitor.value("celery_task_failed_total") == 10, "the failures")
        # Told by other connections than the end of the tasks. A retry is sent again, by the worker.
        until(lambda: monitor.value("celery_task_sent_total") == 20, "the sendings")
        until(lambda: monitor.value("celery_task_succeeded_total") == 5, "the successes")
        page = monitor.get("/metrics")[2]
    assert shown(page) == {name: what for name, what in expected() if name not in NEVER_HERE}
    assert complaints_of_promtool(page) == {
        "celery_active_consumer_count",
        "celery_active_process_count",
        "celery_active_worker_count",
    }


def test_a_worker_without_events_is_named(redis_url: str, tmp_path: Path) -> None:
    """By what its heartbeats say that it has done. Twenty times as fast as life."""
    status = BrokerStatus()
    settings = Settings(broker_url=redis_url, worker_timeout=0, purge_offline_worker_metrics=0)
    hub = Hub(
        settings,
        status=status,
        version="1",
        clock=lambda: Now(SPEED * time.monotonic(), time.time()),
    )
    intake = make_intake(settings, hub, status)
    intake.start()
    try:
        with (
            running_worker(redis_url, tmp_path, "mute@here", "mute", events=False),
            running_worker(redis_url, tmp_path, "loud@here", "loud"),
        ):

            def told() -> list[str]:
                for queue in ("mute", "loud"):
                    send(redis_url, "ok", queue, sent_event=False)
                hub.tick()
                page = hub.page().decode().splitlines()
                return sorted(line for line in page if line.startswith("loopwatch_worker_events_enabled{"))

            until(lambda: len(told()) == 2, "what each of them does")
            assert told() == [
                'loopwatch_worker_events_enabled{hostname="loud@here"} 1',
                'loopwatch_worker_events_enabled{hostname="mute@here"} 0',
            ]
    finally:
        intake.close()
