"""Workers: up and down by our own clock, under the full node name, purged in the end."""

from __future__ import annotations

from loopwatch.telemetry import catalogue
from loopwatch_monitor.intake import events
from tests.unit.monitor.monitored import Monitored


def up(monitored: Monitored) -> dict[str, object]:
    return {text.split('"')[1]: value for text, value in monitored.series(catalogue.WORKER_UP).items()}


def test_up_with_heartbeats_whatever_their_clock_says() -> None:
    monitored = Monitored(worker_timeout=300)
    monitored.fold(events.WorkerOnline(hostname="w@h", timestamp=-25_200.0))
    monitored.heartbeat(active=3)
    assert up(monitored) == {"w@h": 1}
    assert monitored.only(catalogue.WORKER_TASKS_ACTIVE) == 3


def test_a_killed_worker_goes_down_after_the_timeout_and_away_after_the_purge() -> None:
    monitored = Monitored(worker_timeout=300, purge=600)
    monitored.heartbeat(active=2)
    monitored.sent()
    monitored.received()
    monitored.after(299)
    assert up(monitored) == {"w@h": 1}
    monitored.after(1)
    assert up(monitored) == {"w@h": 0}
    assert monitored.only(catalogue.WORKER_TASKS_ACTIVE) == 0
    assert monitored.series(catalogue.TASK_RECEIVED)
    monitored.after(300)
    assert up(monitored) == {}
    assert monitored.series(catalogue.TASK_RECEIVED) == {}


def test_a_goodbye_is_down_at_once_and_touches_no_neighbour() -> None:
    monitored = Monitored()
    monitored.heartbeat("a@h")
    monitored.heartbeat("b@h")
    monitored.fold(events.WorkerOffline(hostname="a@h", timestamp=0.0))
    assert up(monitored) == {"a@h": 0, "b@h": 1}


def test_events_that_were_under_way_do_not_bring_a_worker_back_but_a_heartbeat_does() -> None:
    monitored = Monitored()
    monitored.heartbeat()
    monitored.fold(events.WorkerOffline(hostname="w@h", timestamp=0.0))
    monitored.started()
    assert up(monitored) == {"w@h": 0}
    monitored.heartbeat()
    assert up(monitored) == {"w@h": 1}


def test_a_worker_without_heartbeats_is_known_by_its_work() -> None:
    monitored = Monitored()
    monitored.started()
    assert up(monitored) == {"w@h": 1}


def test_a_client_is_no_worker_but_its_series_end_too() -> None:
    monitored = Monitored(purge=600)
    monitored.sent()
    assert up(monitored) == {}
    assert monitored.series(catalogue.TASK_SENT)
    monitored.after(600)
    assert monitored.series(catalogue.TASK_SENT) == {}


def test_zero_means_never() -> None:
    monitored = Monitored(worker_timeout=0, purge=0)
    monitored.heartbeat()
    monitored.after(1e9)
    assert up(monitored) == {"w@h": 1}


def test_a_process_that_only_reports_is_no_worker() -> None:
    monitored = Monitored()
    monitored.snapshot(hostname="api@h", kind="process")
    assert up(monitored) == {}
    assert monitored.series(catalogue.WORKER_INFO) == {}
    assert monitored.only(catalogue.WORKER_SNAPSHOT_AGE) == 0.0
