"""Alerts about tasks and queues."""

from __future__ import annotations

from dashboards.alerts.alert import Alert, Given
from dashboards.vectors import Vector, by_connected
from loopwatch.telemetry import catalogue as c

__all__ = ["alerts"]

TASKS = "loopwatch-tasks"


def alerts(given: Given) -> list[Alert]:
    """All of them."""
    return [_failures(given), *_queues(given), _unattended(given)]


def _failures(given: Given) -> Alert:
    limits, recorded = given.limits, given.recorded
    failed = recorded["task:celery_task_failed:rate5m"]
    share = failed.with_("/", recorded["task:celery_task_finished:rate5m"]).then(f"> {limits.failure_share:g}")
    enough = failed.then(given.in_five_minutes).then(f">= {limits.failure_count:g}")
    return Alert(
        name="TaskFailures",
        severity="warning",
        when=share.with_("and", enough),
        lasts=600,
        summary="A task fails often.",
        description="Of the runs of task {name} in queue {queue_name}, {{ $value | humanizePercentage }} fail: the "
        "panel names the exception; compare its beginning with the workers' starts.",
        panel=(TASKS, "Failed tasks, share by task"),
    )


def _queues(given: Given) -> list[Alert]:
    limits, recorded = given.limits, given.recorded
    # A length over a rate of 0 is infinite, and above every limit; where nothing was ever started there is no rate.
    slow = recorded["queue:celery_queue_drain:seconds"].then(f"> {limits.drain_seconds:g}")
    waiting = recorded["queue:celery_queue_length:max"].then(f"> {limits.backlog:g}")
    stuck = waiting.with_("unless", recorded["queue:celery_task_started:rate10m"])
    length = (
        '{{ with printf "queue:celery_queue_length:max{job=%q,queue_name=%q}" $labels.job $labels.queue_name | query }}'
        "{{ . | first | value }}{{ end }}"
    )
    oldest = by_connected(c.QUEUE_OLDEST_TASK).then(f"> {limits.oldest_task_seconds:g}")
    return [
        Alert(
            name="QueueBacklog",
            severity="warning",
            when=slow.with_("or", stuck),
            lasts=600,
            summary="More tasks wait in a queue than its workers begin in a fair time.",
            description=f"In queue {{queue_name}} {length} tasks wait, and they will for long at the rate at which "
            "they are started: see whether its workers are busy, idle or gone.",
            panel=(TASKS, "Time to drain"),
        ),
        Alert(
            name="QueueOldestTask",
            severity="warning",
            when=oldest,
            lasts=300,
            summary="A task has waited in its queue for very long.",
            description="The oldest task of queue {queue_name} was sent {{ $value | humanizeDuration }} ago and is not "
            "started: see whether the queue's workers are busy, idle or gone.",
            panel=(TASKS, "Oldest task"),
        ),
    ]


def _unattended(given: Given) -> Alert:
    waiting: Vector = given.recorded["queue:celery_queue_length:max"].then("> 0")
    return Alert(
        name="QueueWithoutWorkers",
        severity="critical",
        when=by_connected(c.ACTIVE_WORKERS).then("== 0").with_("and", waiting),
        lasts=300,
        summary="A queue holds tasks and no worker consumes it.",
        description="Tasks wait in queue {queue_name}, and no worker that is up consumes it: start one with "
        "-Q {queue_name}, or see why the last one ended.",
        panel=(TASKS, "Workers and slots, by queue"),
    )
