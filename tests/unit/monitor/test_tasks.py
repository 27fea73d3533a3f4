"""Celery's task events: names, queues and times joined by task id, within bounds."""

from __future__ import annotations

import pytest

from loopwatch.telemetry import catalogue
from loopwatch_monitor.intake import events
from loopwatch_monitor.state import series, tasks
from loopwatch_monitor.state.series import exception_class
from tests.unit.monitor.monitored import Monitored


def labels(name: str = "t", hostname: str = "w@h", queue: str = "q") -> str:
    return f'name="{name}",hostname="{hostname}",queue_name="{queue}"'


def test_a_task_from_sent_to_succeeded() -> None:
    monitored = Monitored(runtime_buckets=(1.0, 5.0), wait_buckets=(1.0, 5.0))
    monitored.sent(at=10.0)
    monitored.received()
    monitored.started(at=12.5)
    monitored.fold(events.TaskSucceeded(hostname="w@h", timestamp=0.0, uuid="1", runtime=7.0))
    assert monitored.series(catalogue.TASK_SENT) == {labels(hostname="gen1@h"): 1}
    for metric in (catalogue.TASK_RECEIVED, catalogue.TASK_STARTED, catalogue.TASK_SUCCEEDED):
        assert monitored.series(metric) == {labels(): 1}
    assert monitored.series(catalogue.TASK_QUEUE_WAIT) == {labels(): [0, 1, 0, 2.5]}
    assert monitored.series(catalogue.TASK_RUNTIME) == {labels(): [0, 0, 1, 7.0]}
    assert len(monitored.fleet.tasks) == 0
    assert monitored.series(catalogue.TASK_FAILED) == {}


def test_a_retry_is_the_same_task_and_waits_again() -> None:
    monitored = Monitored()
    monitored.sent(at=1.0)
    monitored.started(at=2.0)
    monitored.fold(events.TaskRetried(hostname="w@h", timestamp=0.0, uuid="1", exception="None"))
    monitored.sent(at=10.0)
    monitored.started(at=11.0)
    monitored.failed(exception="pkg.TooBad('x')")
    assert monitored.series(catalogue.TASK_RETRIED) == {labels(): 1}
    wait = monitored.only(catalogue.TASK_QUEUE_WAIT)
    assert isinstance(wait, list)
    assert sum(wait[:-1]) == 2
    assert monitored.series(catalogue.TASK_FAILED) == {f'{labels()},exception="TooBad"': 1}


def test_revoked_and_rejected() -> None:
    monitored = Monitored()
    for uuid in "123":
        monitored.sent(uuid)
    monitored.fold(
        events.TaskRevoked(hostname="w@h", timestamp=0.0, uuid="1"),
        events.TaskRejected(hostname="w@h", timestamp=0.0, uuid="2"),
        events.TaskRejected(hostname="w@h", timestamp=0.0, uuid="3", requeue=True),
    )
    assert monitored.series(catalogue.TASK_REVOKED) == {labels(): 1}
    assert monitored.series(catalogue.TASK_REJECTED) == {labels(): 2}
    assert len(monitored.fleet.tasks) == 1


def test_a_task_never_seen_before_is_unknown_and_nothing_is_guessed() -> None:
    monitored = Monitored()
    monitored.started()
    monitored.after(2)
    assert monitored.series(catalogue.TASK_STARTED) == {labels("unknown", queue="unknown"): 1}
    assert monitored.series(catalogue.TASK_QUEUE_WAIT) == {}


def test_events_that_overtake_task_sent_wait_for_it() -> None:
    monitored = Monitored()
    monitored.received()
    monitored.started(at=11.0)
    monitored.fold(events.TaskSucceeded(hostname="w@h", timestamp=0.0, uuid="1", runtime=7.0))
    assert monitored.series(catalogue.TASK_SUCCEEDED) == {}
    monitored.sent(at=10.0)
    for metric in (catalogue.TASK_RECEIVED, catalogue.TASK_STARTED, catalogue.TASK_SUCCEEDED):
        assert monitored.series(metric) == {labels(): 1}
    wait = monitored.only(catalogue.TASK_QUEUE_WAIT)
    assert isinstance(wait, list)
    assert wait[-1] == 1.0
    assert len(monitored.fleet.tasks) == len(monitored.fleet.early) == 0


def test_nothing_waits_where_the_queue_is_known_and_nobody_sends_task_sent() -> None:
    monitored = Monitored()
    monitored.snapshot(queues=["logs"])
    monitored.started()
    assert monitored.series(catalogue.TASK_STARTED) == {labels("unknown", queue="logs"): 1}


def test_a_name_that_waits_takes_no_more_room_than_is_shown() -> None:
    monitored = Monitored()
    monitored.received(name="n" * 5_000_000)
    ((event,),) = [task.events for task in monitored.fleet.early._waiting.values()]
    assert isinstance(event, events.TaskReceived)
    assert len(event.name or "") < 300


def test_only_so_many_wait() -> None:
    monitored = Monitored()
    monitored.fleet.early.limit = 3
    for number in range(10):
        monitored.started(str(number))
    assert len(monitored.fleet.early) == 3
    assert monitored.only(catalogue.TASK_STARTED) == 7


def test_the_queue_comes_from_the_worker_when_it_has_but_one() -> None:
    monitored = Monitored()
    monitored.snapshot(hostname="one@h", queues=["logs"])
    monitored.snapshot(hostname="two@h", queues=["logs", "content"])
    monitored.sent(queue="sent-to")
    monitored.started(hostname="one@h")
    monitored.started(hostname="two@h")
    monitored.started(uuid="2", hostname="two@h")
    monitored.after(2)
    assert set(monitored.series(catalogue.TASK_STARTED)) == {
        labels(hostname="one@h", queue="logs"),
        labels(hostname="two@h", queue="sent-to"),
        labels("unknown", "two@h", "unknown"),
    }


@pytest.mark.parametrize(
    ("sent", "queue"),
    [
        ({"queue": "q", "exchange": "x", "routing_key": "r"}, "q"),
        ({"queue": None, "exchange": "x", "routing_key": "r"}, "unknown"),
        ({"queue": None, "exchange": "", "routing_key": "r"}, "r"),
        ({"queue": None, "exchange": "", "routing_key": ""}, "main"),
    ],
)
def test_the_queue_that_a_task_was_sent_to(sent: dict[str, str | None], queue: str) -> None:
    monitored = Monitored(default_queue="main")
    monitored.sent(**sent)  # type: ignore[arg-type]
    assert monitored.series(catalogue.TASK_SENT) == {labels(hostname="gen1@h", queue=queue): 1}


def test_two_clocks_never_make_a_wait_negative() -> None:
    monitored = Monitored()
    monitored.sent(at=10.0)
    monitored.started(at=9.0)
    wait = monitored.only(catalogue.TASK_QUEUE_WAIT)
    assert isinstance(wait, list)
    assert (wait[0], wait[-1]) == (1, 0.0)


def test_two_workers_of_one_machine_are_two() -> None:
    monitored = Monitored()
    monitored.sent()
    monitored.received(hostname="a@h")
    monitored.received(hostname="b@h")
    assert monitored.series(catalogue.TASK_RECEIVED) == {labels(hostname="a@h"): 1, labels(hostname="b@h"): 1}


def test_a_full_table_evicts_the_oldest_task_and_counts_it() -> None:
    monitored = Monitored(max_tasks=2)
    for uuid in "123":
        monitored.sent(uuid)
    assert monitored.series(catalogue.MONITOR_EVICTIONS) == {'table="tasks"': 1}
    assert monitored.series(catalogue.MONITOR_TABLE_ENTRIES)['table="tasks"'] == 2
    monitored.started("1")
    monitored.started("3")
    monitored.after(2)
    assert monitored.series(catalogue.TASK_STARTED) == {labels("unknown", queue="unknown"): 1, labels(): 1}


def test_series_are_bounded_and_what_finds_no_room_is_counted() -> None:
    monitored = Monitored()
    monitored.fleet.series.limit = 3
    for number in range(10):
        monitored.sent(str(number), name=f"t{number}")
    assert len(monitored.series(catalogue.TASK_SENT)) == 3
    assert monitored.dropped == {"celery_task_sent_total": 7}
    monitored.sent("11", name="t0")
    assert monitored.series(catalogue.TASK_SENT)[labels("t0", "gen1@h")] == 2


def test_exception_classes_are_bounded() -> None:
    monitored = Monitored()
    monitored.fleet.series.limit = 3
    for number in range(10):
        monitored.failed(exception=f"E{number}()")
    monitored.after(2)
    assert len(monitored.series(catalogue.TASK_FAILED)) == 3
    assert monitored.dropped == {"celery_task_failed_total": 7}


def test_hosts_are_bounded() -> None:
    monitored = Monitored()
    monitored.fleet.workers.limit = 3
    for number in range(10):
        monitored.heartbeat(f"w{number}@h")
    assert len(monitored.series(catalogue.WORKER_UP)) == 3
    assert monitored.dropped == {"celery_worker_up": 7}


def test_a_name_is_kept_once_and_no_more_of_them_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_TEXTS", 10)
    monitored = Monitored(max_tasks=5)
    kept = monitored.fleet.tasks
    for number in range(100):
        monitored.sent(str(number), name=f"t{number % 90}")
        assert len(kept._texts) <= 10
    for uuid in "ab":
        monitored.sent(uuid, name="".join(["mail", ".send"]))
    assert kept._tasks["a"].name is kept._tasks["b"].name
    assert kept._tasks["a"].queue is kept._tasks["b"].queue


def test_label_values_are_bounded() -> None:
    monitored = Monitored()
    monitored.sent(name="n" * 5_000_000)
    (text,) = monitored.series(catalogue.TASK_SENT)
    assert len(text) < 300
    assert "…" in text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("KeyError('x')", "KeyError"),
        ("pkg.mod.Err('x')", "Err"),
        ("Err()", "Err"),
        ("<Err: x>", "Err"),
        ("<Err>", "Err"),
        ("<pkg.Err object at 0x7f00>", "Err"),
        ("Größe('x')", "Größe"),
        ("None", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        ("something went wrong (badly)", "unknown"),
        ("'just text'", "unknown"),
        ("E" * 5_000_000, "unknown"),
        ("<" * 5_000_000, "unknown"),
        ("Err(" + "x" * 5_000_000, "Err"),
    ],
)
def test_the_exception_class_in_a_repr(text: str | None, name: str) -> None:
    assert exception_class(text) == name


def test_every_family_of_celerys_tasks_is_read() -> None:
    families = {metric for metric in catalogue.METRICS if metric.name.startswith("celery_task_")}
    assert set(series.FAMILIES) == families
