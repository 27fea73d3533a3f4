"""Queues: which there are, how long, who consumes them, what waits in them; and workers that hide what they do."""

from __future__ import annotations

import pytest

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch_monitor.intake import events
from loopwatch_monitor.state.queues import Depth, Queues
from tests.unit.monitor.monitored import Monitored

HOUR = 3600.0


def by_queue(monitored: Monitored, metric: Metric) -> dict[str, object]:
    return {text.split('"')[1]: value for text, value in monitored.series(metric).items()}


def silent_workers(monitored: Monitored) -> dict[str, object]:
    return by_queue(monitored, catalogue.WORKER_EVENTS_ENABLED)


def test_queues_are_known_from_settings_events_snapshots_and_answers_and_stay_known() -> None:
    monitored = Monitored(queues=("set",))
    monitored.sent(queue="sent")
    monitored.snapshot(hostname="lib@h", queues=["told"])
    monitored.answer("answered", hostname="plain@h")
    assert set(by_queue(monitored, catalogue.ACTIVE_WORKERS)) == {"set", "sent", "told", "answered"}
    assert by_queue(monitored, catalogue.QUEUE_LENGTH) == {}
    monitored.measure(set=3, answered=0)
    monitored.fleet.measured({"told": Depth(7, 2)}, monitored.clock)
    assert by_queue(monitored, catalogue.QUEUE_LENGTH) == {"set": 3, "answered": 0, "told": 7}
    assert by_queue(monitored, catalogue.ACTIVE_CONSUMERS) == {"told": 2}
    monitored.after(HOUR)
    assert by_queue(monitored, catalogue.ACTIVE_WORKERS) == {"set": 0, "sent": 0, "told": 0, "answered": 0}
    assert by_queue(monitored, catalogue.ACTIVE_PROCESSES) == {"set": 0, "sent": 0, "told": 0, "answered": 0}


def test_queues_are_bounded_and_refusals_are_counted() -> None:
    monitored = Monitored()
    monitored.fleet.queues.limit = 2
    for number in range(5):
        monitored.sent(str(number), queue=f"q{number}")
    monitored.sent("long", queue="q" * 300)
    assert set(by_queue(monitored, catalogue.QUEUE_OLDEST_TASK)) == {"q0", "q1"}
    assert monitored.dropped == {"celery_queue_length": 3}


def test_workers_and_processes_of_each_queue() -> None:
    monitored = Monitored()
    for name in "ab":
        monitored.heartbeat(f"{name}@h")
    monitored.snapshot(hostname="a@h", queues=["logs", "content"], slots=4)
    # What a node reports is newer than what it answered.
    monitored.answer("old", hostname="a@h", processes=99)
    monitored.answer("logs", hostname="b@h", processes=2)
    monitored.snapshot(hostname="api@h", kind="process", slots=8, queues=["logs"])
    assert by_queue(monitored, catalogue.ACTIVE_WORKERS) == {"logs": 2, "content": 1}
    assert by_queue(monitored, catalogue.ACTIVE_PROCESSES) == {"logs": 6, "content": 4}
    monitored.fold(events.WorkerOffline(hostname="b@h", timestamp=0.0))
    assert by_queue(monitored, catalogue.ACTIVE_PROCESSES) == {"logs": 4, "content": 4}


def test_a_queue_is_the_workers_only_one_else_unknown() -> None:
    monitored = Monitored()
    monitored.answer("logs", hostname="one@h")
    monitored.answer("logs", "content", hostname="two@h")
    for hostname in ("one@h", "two@h", "none@h"):
        monitored.started(hostname, hostname=hostname)
    monitored.after(2)
    assert set(monitored.series(catalogue.TASK_STARTED)) == {
        f'name="unknown",hostname="{hostname}",queue_name="{queue}"'
        for hostname, queue in (("one@h", "logs"), ("two@h", "unknown"), ("none@h", "unknown"))
    }


def test_an_answer_of_a_restarted_worker_takes_the_place_of_the_last_one_and_goes_with_it() -> None:
    monitored = Monitored(purge=600)
    monitored.answer("logs")
    monitored.answer("content")
    monitored.started("1")
    monitored.after(600)
    assert monitored.fleet.workers.hosts == {}
    assert monitored.fleet._only_queues == {}


# -------------------------------------------------------------------------------------------- the oldest task


def test_the_oldest_task_is_sent_and_not_started() -> None:
    monitored = Monitored()
    monitored.sent("1", at=1e9)  # by our clock, whatever the sender's says
    monitored.after(10)
    monitored.sent("2")
    monitored.sent("3", queue="other")
    monitored.after(5)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 15, "other": 5}
    monitored.started("1")
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK)["q"] == 5
    monitored.fold(events.TaskRevoked(hostname="w@h", timestamp=0.0, uuid="2"))
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK)["q"] == 0


def test_a_task_that_is_to_wait_does_not_count() -> None:
    monitored = Monitored()
    monitored.sent(eta="2030-01-01T00:00:00")
    monitored.after(10)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 0}


def test_a_retry_waits_from_when_it_was_sent_again() -> None:
    monitored = Monitored()
    monitored.sent("1")
    monitored.sent("2")
    monitored.after(10)
    monitored.started("1")
    monitored.fold(events.TaskRetried(hostname="w@h", timestamp=0.0, uuid="1", exception="None"))
    monitored.sent("1")
    monitored.after(1)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 11}
    monitored.started("2")
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 1}


def test_a_line_behind_a_task_that_nobody_starts_does_not_grow() -> None:
    monitored = Monitored()
    monitored.sent("stuck")
    for number in range(20):
        for task in range(1_000):
            monitored.sent(f"{number}-{task}")
            monitored.started(f"{number}-{task}")
        monitored.after(1)
    assert len(monitored.fleet.queues.known["q"].waiting) < 3_000
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 20}


def test_an_evicted_task_waits_no_longer() -> None:
    monitored = Monitored(max_tasks=2)
    for uuid in "123":
        monitored.sent(uuid)
        monitored.after(1)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 2}


def test_what_was_purged_from_the_queue_waits_no_longer() -> None:
    monitored = Monitored(worker_timeout=0, purge=0)
    monitored.heartbeat(processed=0)
    monitored.answer("q")
    monitored.sent("1")
    monitored.after(599)
    monitored.measure(q=0)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 599}
    monitored.after(1)
    monitored.measure(q=1)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 600}
    monitored.heartbeat(active=1, processed=1)
    monitored.measure(q=0)  # somebody works: it may be about to start what it has fetched
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 600}
    monitored.heartbeat(active=0, processed=1)
    monitored.measure(q=0)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {"q": 0}


def test_of_a_queue_whose_worker_hides_what_it_starts_nothing_is_said() -> None:
    monitored = Monitored()
    monitored.answer("q")
    monitored.sent()
    assert set(by_queue(monitored, catalogue.QUEUE_OLDEST_TASK)) == {"q"}
    works_in_silence(monitored)
    assert by_queue(monitored, catalogue.QUEUE_OLDEST_TASK) == {}


# ---------------------------------------------------------------------------- workers that send no task events


def works_in_silence(monitored: Monitored, growths: int = 3, seconds: float = 15.0) -> None:
    for processed in range(growths + 1):
        monitored.heartbeat(processed=processed)
        monitored.after(seconds)


def test_a_worker_that_works_and_tells_no_tasks_sends_no_events() -> None:
    monitored = Monitored()
    works_in_silence(monitored)
    assert silent_workers(monitored) == {"w@h": 0}
    monitored.started()  # `celery control enable_events`
    assert silent_workers(monitored) == {"w@h": 1}
    works_in_silence(monitored)
    assert silent_workers(monitored) == {"w@h": 0}


@pytest.mark.parametrize(("growths", "seconds"), [(2, 60.0), (3, 5.0), (0, 60.0)])
def test_an_outage_of_ours_or_an_idle_worker_is_no_evidence(growths: int, seconds: float) -> None:
    monitored = Monitored()
    works_in_silence(monitored, growths, seconds)
    assert silent_workers(monitored) == {}


def test_events_in_between_tell_that_they_are_on() -> None:
    monitored = Monitored()
    for processed in range(10):
        monitored.heartbeat(processed=processed)
        monitored.after(15)
        monitored.started(str(processed))
    assert silent_workers(monitored) == {"w@h": 1}


def test_a_worker_without_heartbeats_is_judged_by_its_answers() -> None:
    monitored = Monitored()
    for processed in range(5):
        monitored.answer("q", processed=processed)
        monitored.after(60)
    assert silent_workers(monitored) == {"w@h": 0}


def test_a_restarted_worker_begins_to_count_anew() -> None:
    monitored = Monitored()
    for processed in (5, 0, 5, 0, 5):
        monitored.heartbeat(processed=processed)
        monitored.after(15)
    assert silent_workers(monitored) == {}


# ---------------------------------------------------------------------------------------------------- lost


def lost(monitored: Monitored) -> dict[str, object]:
    return by_queue(monitored, catalogue.WORKER_LOST)


def test_lost_is_who_vanished_without_a_goodbye() -> None:
    monitored = Monitored(worker_timeout=60, purge=600)
    for hostname in ("killed@h", "stopped@h"):
        monitored.heartbeat(hostname)
    monitored.fold(events.WorkerOffline(hostname="stopped@h", timestamp=0.0))
    assert lost(monitored) == {"killed@h": 0, "stopped@h": 0}
    monitored.after(60)
    assert lost(monitored) == {"killed@h": 1, "stopped@h": 0}
    monitored.heartbeat("killed@h")
    assert lost(monitored) == {"killed@h": 0, "stopped@h": 0}
    monitored.after(600)
    assert lost(monitored) == {}


def test_work_brings_a_lost_worker_back_but_not_one_that_left() -> None:
    monitored = Monitored(worker_timeout=60)
    monitored.started("1")
    monitored.after(60)
    assert lost(monitored) == {"w@h": 1}
    monitored.started("2")
    assert lost(monitored) == {"w@h": 0}
    assert monitored.only(catalogue.WORKER_UP) == 1
    monitored.fold(events.WorkerOffline(hostname="w@h", timestamp=0.0))
    monitored.started("3")
    monitored.answer("q")
    assert monitored.only(catalogue.WORKER_UP) == 0


# --------------------------------------------------------------------------------------------------- polls


def test_the_age_of_an_answer_and_failures() -> None:
    monitored = Monitored()
    monitored.after(5)
    monitored.measure(q=3)
    monitored.after(20)
    monitored.fleet.polls.failed("queues")
    assert monitored.series(catalogue.MONITOR_POLL_AGE) == {'poll="queues"': 20, 'poll="workers"': 20}
    assert monitored.series(catalogue.MONITOR_POLL_FAILURES) == {'poll="queues"': 1, 'poll="workers"': 0}
    assert by_queue(monitored, catalogue.QUEUE_LENGTH) == {"q": 3}
    monitored.answer("q")
    monitored.after(1)
    assert monitored.series(catalogue.MONITOR_POLL_AGE) == {'poll="queues"': 21, 'poll="workers"': 1}


def test_a_queue_without_a_name_is_none() -> None:
    assert Queues(["", "q"], ledger=Monitored().fleet.ledger).known.keys() == {"q"}


# ------------------------------------------------------------------------------------------ generic hostnames


def test_hostnames_can_be_generic() -> None:
    monitored = Monitored(generic_sender=True, generic_worker=True)
    monitored.sent()
    monitored.received()
    monitored.failed()
    assert monitored.series(catalogue.TASK_SENT) == {'name="t",hostname="generic",queue_name="q"': 1}
    assert monitored.series(catalogue.TASK_RECEIVED) == {'name="t",hostname="generic",queue_name="q"': 1}
    assert monitored.series(catalogue.TASK_FAILED) == {'name="t",hostname="generic",queue_name="q",exception="E"': 1}


# ------------------------------------------------------------------------------------------------ without slots


def test_without_slots_they_are_summed_and_the_highest_of_peaks() -> None:
    pool = ("db",)
    monitored = Monitored(slots=False)
    monitored.snapshot(
        gauges={
            slot: {
                catalogue.POOL_CONNECTIONS_MAX.wire_name: {pool: 5},
                catalogue.POOL_CONNECTIONS_PEAK.wire_name: {pool: slot + 1},
                catalogue.POOL_OLDEST_CHECKOUT.wire_name: {pool: 10 * slot},
                catalogue.LOOP_LAG_MAX.wire_name: {(): 0.5 * slot},
            }
            for slot in range(3)
        }
    )
    labels = 'hostname="w@h",slot="all",pool="db"'
    assert monitored.series(catalogue.POOL_CONNECTIONS_MAX) == {labels: 15}
    assert monitored.series(catalogue.POOL_CONNECTIONS_PEAK) == {labels: 3}
    assert monitored.series(catalogue.POOL_OLDEST_CHECKOUT) == {labels: 20}
    assert monitored.only(catalogue.LOOP_LAG_MAX) == 1.0
