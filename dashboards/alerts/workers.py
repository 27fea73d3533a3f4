"""Alerts about single workers: gone, silent, idle, or unseen."""

from __future__ import annotations

from dashboards.alerts.alert import Alert, Given
from dashboards.vectors import Vector, by_connected, once, series
from loopwatch.telemetry import catalogue as c

__all__ = ["alerts"]

TASKS, MONITOR = "loopwatch-tasks", "loopwatch-monitor"


def alerts(given: Given) -> list[Alert]:
    """All of them."""
    return [_not_consuming(given), _lost(), *_unseen(given), _dropping(given)]


def _up() -> Vector:
    return once(series(c.WORKER_UP)).then("== 1")


def _not_consuming(given: Given) -> Alert:
    worker = ("job", "hostname")
    recorded = given.recorded
    began = recorded["worker:celery_task_started:increase10m"].then("> 0")
    idle = once(series(c.WORKER_TASKS_ACTIVE).call("max_over_time", given.pace(300))).then("== 0")
    long = recorded["queue:celery_queue_length:max"].then(f"> {given.limits.backlog:g}")
    its_queue_is_long = once(series(c.WORKER_QUEUE)).with_("and", long, on=("job", "queue_name"))
    return Alert(
        name="WorkerNotConsuming",
        severity="critical",
        when=_up()
        .with_("unless", began, on=worker)
        .with_("and", idle, on=worker)
        .with_("and", its_queue_is_long, on=worker),
        lasts=300,
        summary="A worker is alive and takes no task although its queue is not empty.",
        description="Worker {hostname} sends heartbeats and has begun no task for ten minutes, although tasks wait in "
        "its queue: see where it hangs, then restart it.",
        panel=(TASKS, "Slots in use, by worker"),
    )


def _lost() -> Alert:
    return Alert(
        name="WorkerLost",
        severity="warning",
        when=by_connected(c.WORKER_LOST).then("== 1"),
        # A monitor that is connected again has to hear a heartbeat first.
        lasts=60,
        summary="A worker vanished without a goodbye.",
        description="Worker {hostname} is silent and did not say goodbye: killed (out of memory?), or cut off from the "
        "broker. Its tasks are lost if they were acknowledged early.",
        panel=(TASKS, "Workers"),
    )


def _unseen(given: Given) -> list[Alert]:
    old = by_connected(c.WORKER_SNAPSHOT_AGE).then(f"> {given.limits.snapshot_seconds:g}")
    return [
        Alert(
            name="EventsDisabled",
            severity="warning",
            when=once(series(c.WORKER_EVENTS_ENABLED)).then("== 0"),
            lasts=600,
            summary="A worker sends no task events.",
            description="Worker {hostname} works and sends no task events, so its tasks are not counted: start it with "
            "-E, or set worker_send_task_events.",
            panel=(MONITOR, "Workers without task events"),
        ),
        Alert(
            name="SnapshotsStale",
            severity="warning",
            when=old.with_("and", _up(), on=("job", "hostname")),
            # With its limit this lies above the monitor's --worker-timeout: a worker that is gone is lost, not stale.
            lasts=300,
            summary="A live worker sends no snapshots.",
            description="Worker {hostname} sends heartbeats, and its last snapshot of loops and pools is "
            "{{ $value | humanizeDuration }} old: look for `cannot publish` in its log.",
            panel=(MONITOR, "Snapshot age, by worker"),
        ),
    ]


def _dropping(given: Given) -> Alert:
    return Alert(
        name="TelemetryDropped",
        severity="info",
        when=given.increase(c.TELEMETRY_DROPPED, seconds=600).then("> 0"),
        lasts=900,
        summary="A worker keeps dropping telemetry.",
        description='Worker {hostname} dropped {{ $value | printf "%.0f" }} pieces of telemetry in ten minutes, by '
        "{reason}: its tasks are unharmed, its figures may be too low.",
        panel=(MONITOR, "Telemetry dropped, by reason"),
    )
