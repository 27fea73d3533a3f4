"""Loop conflicts in the events of applications without the library; each counted once whichever way it is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.conflict_reports import ConflictReport
from loopwatch_monitor.conflict_log import BURST, MAX_TEXT, ConflictLog
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake import events
from loopwatch_monitor.intake.decode import decode
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from tests.unit.monitor.monitored import WALL, Monitored, batch

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "celery-events.json").read_text())
CLOSED = "RuntimeError('Event loop is closed')"


def seen(monitored: Monitored) -> dict[str, object]:
    return dict(monitored.series(catalogue.LOOP_CONFLICTS))


def text(kind: str, *, resource: str = "unknown", queue: str = "q") -> str:
    return f'hostname="w@h",queue_name="{queue}",name="t",resource="{resource}",kind="{kind}",source="event"'


@pytest.fixture
def monitored() -> Monitored:
    """Knows a worker for long enough that a snapshot of it would have come."""
    monitored = Monitored()
    monitored.heartbeat()
    monitored.after(15)
    return monitored


def test_a_conflict_of_a_node_without_snapshots(monitored: Monitored) -> None:
    monitored.sent()
    monitored.failed(exception=CLOSED)
    assert seen(monitored) == {text("closed_loop"): 1}
    assert monitored.series(catalogue.LOOP_CONFLICT_LAST) == {'hostname="w@h"': WALL + 15}


def test_an_ordinary_failure_is_none(monitored: Monitored) -> None:
    monitored.failed(exception="RuntimeError('no running event loop')", traceback="Traceback ...\nRuntimeError: no")
    monitored.after(2)
    assert seen(monitored) == {}
    assert monitored.series(catalogue.LOOP_CONFLICT_LAST) == {'hostname="w@h"': 0}


def test_a_conflict_that_only_the_traceback_shows(monitored: Monitored) -> None:
    monitored.sent()
    traceback = "Traceback (most recent call last):\nRuntimeError: Event loop is closed\n\nConnectionError: no\n"
    monitored.failed(exception="ConnectionError('Connection error.')", traceback=traceback)
    assert seen(monitored) == {text("closed_loop"): 1}


def test_each_attempt_of_a_retried_task_counts(monitored: Monitored) -> None:
    monitored.sent()
    for _ in range(2):
        monitored.fold(events.TaskRetried(hostname="w@h", timestamp=0.0, uuid="1", exception=CLOSED))
    assert seen(monitored) == {text("closed_loop"): 2}


@pytest.mark.parametrize("name", ["task-failed", "task-retried"])
def test_recorded_events(monitored: Monitored, name: str) -> None:
    event = RECORDED[name]["event"]
    monitored.sent(event["uuid"])
    monitored.fold(*decode(json.dumps(event | {"hostname": "w@h"}).encode(), monitored.fleet.ledger.malformed))
    (found,) = seen(monitored)
    assert 'kind="cross_loop"' in found


def test_an_error_of_any_size_is_searched_at_both_ends(monitored: Monitored) -> None:
    monitored.sent()
    monitored.failed(traceback="Traceback\n" + "x: y\n" * 1_000_000 + "RuntimeError: Event loop is closed\n")
    assert seen(monitored) == {text("closed_loop"): 1}


def test_an_error_that_waits_takes_no_more_room_than_is_searched(monitored: Monitored) -> None:
    for number in range(3):
        monitored.failed(str(number), exception=f"E({'x' * 5_000_000})", traceback="x: y\n" * 1_000_000 + CLOSED)
    waiting = [event for task in monitored.fleet.early._waiting.values() for event in task.events]
    assert len(waiting) == 3
    for event in waiting:
        assert isinstance(event, events.TaskFailed)
        assert len(event.exception or "") + len(event.traceback or "") < 250_000
    monitored.after(2)
    assert [*seen(monitored).values()] == [3]
    assert 'exception="E"' in next(iter(monitored.series(catalogue.TASK_FAILED)))


def test_a_node_with_snapshots_counts_for_itself(monitored: Monitored) -> None:
    monitored.snapshot()
    monitored.failed(exception=CLOSED)
    monitored.after(100)
    assert seen(monitored) == {}


def test_an_unknown_nodes_conflict_is_held_and_then_counted() -> None:
    monitored = Monitored()
    monitored.sent()
    monitored.failed(exception=CLOSED)
    monitored.after(14)
    assert seen(monitored) == {}
    monitored.after(1)
    assert seen(monitored) == {text("closed_loop"): 1}
    assert monitored.series(catalogue.LOOP_CONFLICT_LAST) == {'hostname="w@h"': WALL}
    monitored.after(5)
    assert seen(monitored) == {text("closed_loop"): 1}


def test_an_unknown_nodes_conflict_is_forgotten_when_a_snapshot_follows() -> None:
    monitored = Monitored()
    monitored.sent()
    monitored.failed(exception=CLOSED)
    monitored.after(10)
    key = ("q", "t", "unknown", "closed_loop", "exception")
    monitored.snapshot(counters={catalogue.LOOP_CONFLICTS.wire_name: {key: 1}})
    monitored.after(60)
    assert list(seen(monitored).values()) == [1]
    assert 'source="exception"' in next(iter(seen(monitored)))


def test_series_go_with_their_worker_in_the_end() -> None:
    monitored = Monitored(purge=600)
    monitored.heartbeat()
    monitored.after(20)
    monitored.failed(exception=CLOSED)
    monitored.after(2)
    assert seen(monitored)
    monitored.after(600)
    assert seen(monitored) == {}
    assert monitored.series(catalogue.LOOP_CONFLICT_LAST) == {}


def test_series_are_bounded_held_ones_too() -> None:
    monitored = Monitored()
    monitored.fleet.conflicts.limit = 3
    for number in range(5):
        monitored.sent(str(number), name=f"t{number}")
        monitored.failed(str(number), exception=CLOSED)
    monitored.after(15)
    assert len(seen(monitored)) == 3
    assert monitored.dropped == {"loopwatch_loop_conflicts_total": 2}


def test_a_conflict_that_is_reported_whole_is_logged_and_not_counted_again() -> None:
    hub = Hub(Settings(broker_url="memory://"), status=BrokerStatus(up=True), version="1")
    report = ConflictReport("cross_loop", "redis", "guard", "m" * 9_999, "app.store", "7", "logs", "a.py:1", "b.py:2")
    body = {"type": wire.CONFLICT_TYPE, "hostname": "logs@h", "timestamp": 1.0, **report.to_fields()}
    with capture_logs() as logged:
        hub.receive(batch(json.dumps(body).encode()))
    assert logged == [
        {
            "event": "loop_conflict_reported",
            "log_level": "warning",
            "hostname": "logs@h",
            "kind": "cross_loop",
            "resource": "redis",
            "source": "guard",
            "message": "m" * MAX_TEXT,
            "task_name": "app.store",
            "task_id": "7",
            "queue_name": "logs",
            "made_at": "a.py:1",
            "used_at": "b.py:2",
            "occurred": 0.0,
        }
    ]
    page = hub.page().decode()
    assert "loopwatch_loop_conflicts_total{" not in page
    assert 'loopwatch_monitor_events_total{event="loopwatch-conflict"} 1' in page


def test_a_flood_of_reports_does_not_flood_the_log() -> None:
    now = 0.0
    log = ConflictLog(texts=False, clock=lambda: now)
    report = events.ConflictReport(
        hostname="h", timestamp=0.0, version=1, conflict_kind="k", resource="r", source="s", message="m"
    )
    with capture_logs() as logged:
        for _ in range(BURST + 7):
            log(report)
        assert len(logged) == BURST
        now = 1.0
        log(report)
        log(report)
    assert [line.get("left_out_before") for line in logged[-2:]] == [None, 7]
