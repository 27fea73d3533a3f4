"""A worker's loops: what blocks one is in the log with its stack, and in the numbers; conflicts arrive whole."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwatch.telemetry import catalogue
from tests.acceptance.workers import DEADLINE, Listener, wait_until, worker
from tests.integration.monitor_process import running_monitor

pytestmark = pytest.mark.timeout(300)

TASKS = "tests.acceptance.worker_app"


@pytest.fixture
def listener(redis_url: str) -> Iterator[Listener]:
    with Listener(redis_url) as listening:
        yield listening


def _send(listener: Listener, task: str, *args: object, **options: Any) -> Any:
    return listener.app.send_task(f"{TASKS}.{task}", args, **options)


def _late_beats(listener: Listener, node: str) -> float:
    """Observations of a lag above half a second."""
    rows = listener.snapshots[node]["counters"].get(catalogue.LOOP_LAG.wire_name, [])
    return float(sum(sum(row[catalogue.LOOP_LAG.buckets.index(0.5) + 1 : -1]) for _, row in rows))


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_stall_is_logged_and_counted(listener: Listener, redis_url: str, tmp_path: Path, pool: str) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "1", "-P", pool) as running:
        if pool == "prefork":  # alone on its loop, it hurts nobody
            _send(listener, "stall_alone").get(timeout=DEADLINE)
            assert "blocks it" not in running.log
        with (tmp_path / "held").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            result = _send(listener, "stall", held.name)
            told = f"the task {TASKS}.stall[{result.id}] blocks it, here:"
            wait_until(lambda: told in running.log, lambda: running.log)
        result.get(timeout=DEADLINE)
        wait_until(lambda: listener.sum(running.node, catalogue.LOOP_STALLS) >= 1, lambda: listener.snapshots)
        assert running.log.count(told) == 1, running.log
        assert "in stall\n    fcntl.flock(descriptor" in running.log
        wait_until(lambda: _late_beats(listener, running.node) >= 1, lambda: listener.snapshots)
        wait_until(
            lambda: (
                listener.snapshots[running.node]["gauges"]["0"].get(catalogue.LOOP_LAG_MAX.wire_name, [[[], 0]])[0][1]
                > 0.5
            ),
            lambda: listener.snapshots,
        )


def test_the_first_conflict_of_a_kind_arrives_whole(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    """From two children, and once a node: message, task, queue, where the resource was made and where it was used."""
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "2") as running:
        results = [
            _send(listener, "query_a_foreign_connection", "app/db.py:7", queue="logs", task_id=f"id-{number}")
            for number in range(6)
        ]
        results.append(_send(listener, "conflict", True))
        for result in results:
            result.get(timeout=DEADLINE, propagate=False)
        wait_until(lambda: len(listener.conflicts) == 2, lambda: listener.conflicts)
        wait_until(lambda: listener.sum(running.node, catalogue.LOOP_CONFLICTS) == 8, lambda: listener.snapshots)
    listener.last(running.node)
    assert len(listener.conflicts) == 2
    first, second = sorted(listener.conflicts, key=lambda event: event["source"], reverse=True)
    assert first["hostname"] == running.node
    assert first["conflict_kind"] == "cross_loop"
    assert first["resource"] == "asyncpg"
    assert first["source"] == "guard"
    assert first["message"] == "a connection to pg://***@db was refused"
    assert first["task_name"] == f"{TASKS}.query_a_foreign_connection"
    assert first["task_id"] in {result.id for result in results}
    assert first["queue_name"] == "logs"
    assert first["made_at"] == "app/db.py:7"
    assert 'worker_app.py", line' in first["used_at"]
    assert "in query_a_foreign_connection" in first["used_at"]
    assert "site-packages" not in first["used_at"]
    assert first["occurred"] > 0
    assert second["task_name"] == f"{TASKS}.conflict"
    assert second["queue_name"] == "celery"
    assert second["source"] == "exception"
    assert "in conflict\n    raise RuntimeError(" in second["used_at"]
    assert listener.dropped(running.node) == {}


def test_a_conflict_seen_by_guard_exception_and_event_is_one(
    listener: Listener, redis_url: str, tmp_path: Path
) -> None:
    """The monitor reads the worker's task events (``-E``), its snapshots and its reports."""
    options = ("-c", "1", "-E")
    with (
        running_monitor(redis_url, tmp_path) as monitor,
        worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, *options) as running,
    ):
        for task, *args in (("query_a_foreign_connection", "app/db.py:7"), ("conflict", False), ("conflict", True)):
            _send(listener, str(task), *args).get(timeout=DEADLINE, propagate=False)
        name = "loopwatch_loop_conflicts_total"
        wait_until(lambda: monitor.value(name) == 4, lambda: monitor.series(name))
        wait_until(lambda: monitor.value("celery_task_failed_total") == 3)
        wait_until(lambda: monitor.value("celery_task_retried_total") == 1)
        # None of the events' conflicts is held back to be counted later.
        held = "event_conflicts"
        wait_until(lambda: monitor.series("loopwatch_monitor_table_entries")[(held,)] == 0)
        assert monitor.series(name) == {
            (running.node, "celery", f"{TASKS}.query_a_foreign_connection", "asyncpg", "cross_loop", "guard"): 1,
            (running.node, "celery", f"{TASKS}.conflict", "unknown", "cross_loop", "exception"): 3,
        }
        wait_until(lambda: sum(line["event"] == "loop_conflict_reported" for line in monitor.lines()) == 2)
        reported = {line["source"]: line for line in monitor.lines() if line["event"] == "loop_conflict_reported"}
        assert reported["guard"]["made_at"] == "app/db.py:7"
        assert "in query_a_foreign_connection" in str(reported["guard"]["used_at"])
        assert reported["guard"]["hostname"] == running.node
        assert "secret" not in monitor.log.read_text()
        assert sum(monitor.series("loopwatch_monitor_events_malformed_total").values()) == 0
