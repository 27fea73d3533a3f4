"""The dashboard "Tasks and queues": what tasks do, what waits, and who works on it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import stat
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from dashboards.building import new_dashboard, numbered, with_section
from dashboards.panel_kinds import ANY, amount, bars, lines, rows
from dashboards.queries import Query, at_most_all, gauge, increase, quantile, rate, recorded, seen, share
from dashboards.thresholds import THRESHOLDS as LIMITS
from dashboards.workers import work, workers_now
from loopwatch.telemetry import catalogue as c

__all__ = ["UID", "build", "queues_without_worker"]

UID = "loopwatch-tasks"

QUEUE = {"queue_name": "$queue"}
WORKER = {"hostname": "$worker"}
TASK = {**WORKER, **QUEUE}

YEAR = 365 * 86400
"""Seconds; a number that every unit can show, unlike the infinity that it stands for."""
HOUR = 3600
"""Seconds; beside it the limits are still seen."""
OLDEST_STEPS = {LIMITS.oldest_task_warning_seconds: "yellow", LIMITS.oldest_task_seconds: "red"}
FAILURE_STEPS = {LIMITS.failure_warning: "yellow", LIMITS.failure_share: "red"}


def build() -> Dashboard:
    """The dashboard."""
    frame = new_dashboard(
        "Tasks and queues",
        uid=UID,
        description="How many tasks start, fail and are retried, how long they run and wait, what the queues hold, and "
        "which workers take from them.",
    )
    with_section(frame, "Now", _now())
    with_section(frame, "Tasks", _tasks())
    with_section(frame, "Queues", _queues())
    with_section(frame, "Who works", work())
    return numbered(frame)


def queues_without_worker(*, width: int = 4) -> stat.Panel:
    """How many queues nobody takes tasks from."""
    return amount(
        "Queues without a worker",
        "Good: 0. Bad: tasks wait, and nobody who is up takes from their queue.",
        "none",
        Query(
            f"count({seen(c.ACTIVE_WORKERS, **QUEUE)} == 0 "
            f"and on (job, queue_name) {seen(c.QUEUE_LENGTH, **QUEUE)} > 0) or vector(0)",
            "queues",
        ),
        thresholds={1: "red"},
        width=width,
    )


def _now() -> list[Builder[Panel]]:
    return [
        amount(
            "Tasks started",
            "Good: as many as are sent. 0 with tasks waiting: nobody takes them.",
            "ops",
            Query(f"sum({rate(c.TASK_STARTED, **TASK)})", "started"),
            thresholds={},
        ),
        amount(
            "Failed tasks, worst task",
            f"Share of its runs within 5 minutes. Good: under {LIMITS.failure_warning:.0%}. "
            "A task that ran once and failed is 100%.",
            "percentunit",
            Query(f"max({_failed('queue_name', 'name')})", "failed"),
            thresholds=FAILURE_STEPS,
            empty="0%",
        ),
        amount(
            "Tasks that wait in queues",
            "Good: returns to 0. Colour by the time the slowest queue takes to drain, on the right.",
            "none",
            Query(f"sum({seen(c.QUEUE_LENGTH, **QUEUE)})", "waiting"),
            thresholds={},
            empty="not known",
        ),
        amount(
            "Longest time to drain",
            "Of all queues, at the rate at which their tasks are started. Good: under a minute. Bad: a year, which "
            "stands for never: a queue holds tasks and starts none.",
            "s",
            # Not a number, which `>= 0` leaves out, is 0 tasks at a rate of 0.
            Query(f"clamp_max(max({recorded('queue:celery_queue_drain:seconds', **QUEUE)} >= 0), {YEAR})", "to drain"),
            thresholds={LIMITS.drain_warning_seconds: "yellow", LIMITS.drain_seconds: "red"},
            empty="0 s",
        ),
        queues_without_worker(),
        workers_now(),
    ]


def _failed(*by: str) -> str:
    return share(
        recorded("task:celery_task_failed:rate5m", **QUEUE), recorded("task:celery_task_finished:rate5m", **QUEUE), *by
    )


def _tasks() -> list[Builder[Panel]]:
    # The highest finite bound counts all that are not beyond it, whatever the monitor's --buckets are.
    within = f"max by (name) (sum by (name, le) ({rate(c.TASK_RUNTIME, suffix='_bucket', le='[0-9].*', **TASK)}))"
    runs = f"sum by (name) ({rate(c.TASK_RUNTIME, suffix='_count', **TASK)})"
    return [
        lines(
            "Tasks sent and started, by queue",
            "Good: started follows sent. Bad: sent above started for long, a backlog grows.",
            "ops",
            Query(f"sum by (queue_name) ({rate(c.TASK_SENT, **QUEUE)})", "{{queue_name}} sent"),
            Query(f"sum by (queue_name) ({rate(c.TASK_STARTED, **TASK)})", "{{queue_name}} started"),
        ),
        lines(
            "Tasks that ended, by outcome",
            "Good: nearly all succeeded. Rejected ones come back or are lost, as the broker decides.",
            "ops",
            Query(f"sum({rate(c.TASK_SUCCEEDED, **TASK)})", "succeeded"),
            Query(f"sum({rate(c.TASK_FAILED, **TASK)})", "failed"),
            Query(f"sum({rate(c.TASK_REJECTED, **TASK)})", "rejected"),
            stacked=True,
        ),
        lines(
            "Failed tasks, share by task",
            f"Good: under {LIMITS.failure_warning:.0%}. Bad: a step; compare it with the marks of worker starts.",
            "percentunit",
            Query(_failed("queue_name", "name"), "{{name}} ({{queue_name}})"),
            thresholds=FAILURE_STEPS,
            empty="no failed tasks",
        ),
        bars(
            "Failures by exception",
            "Good: none. A new colour is a new fault.",
            "none",
            Query(
                f"sum by (name, exception) ({increase(c.TASK_FAILED, **TASK)})",
                "{{name}} {{exception}}",
            ),
            empty="none",
        ),
        lines(
            "Runtime, 95th percentile by task",
            "Good: flat. Bad: a step or a climb. A flat line at the last bucket means longer than that: see the next "
            "panel.",
            "s",
            Query(quantile(0.95, c.TASK_RUNTIME, "name", **TASK), "{{name}}"),
        ),
        lines(
            "Runs beyond the last bucket, share by task",
            f"Good: under {LIMITS.beyond_buckets:.0%}. Bad: above; the panel before is not true, set the monitor's "
            "--buckets.",
            "percentunit",
            Query(f"1 - {at_most_all(f'{within} / ({runs} > 0)')}", "{{name}}"),
            thresholds={LIMITS.beyond_buckets: "yellow"},
        ),
        bars(
            "Retries and revocations",
            "Good: rare. Bad: retries as frequent as runs: the task never succeeds at once.",
            "none",
            Query(f"sum by (queue_name) ({increase(c.TASK_RETRIED, **TASK)})", "{{queue_name}} retried"),
            Query(f"sum by (queue_name) ({increase(c.TASK_REVOKED, **TASK)})", "{{queue_name}} revoked"),
            empty="none",
        ),
        lines(
            "Longest running task, by queue",
            "Good: a sawtooth. Bad: a line that only climbs: the task hangs.",
            "s",
            Query(f"max by (queue_name) ({gauge(c.TASK_OLDEST_RUNNING, **TASK)})", "{{queue_name}}"),
            thresholds={LIMITS.running_seconds: "red"},
        ),
    ]


def _drain() -> str:
    drain, started = (
        recorded(f"queue:celery_{name}", **QUEUE) for name in ("queue_drain:seconds", "task_started:rate10m")
    )
    # Where none was ever started there is no rate. 0 tasks at a rate of 0 are not a number, and left out.
    never = f"clamp_min({recorded('queue:celery_queue_length:max', **QUEUE)} > 0 unless {started}, {HOUR})"
    return f"clamp_max({drain} >= 0 or {never}, {HOUR})"


def _queues() -> list[Builder[Panel]]:
    started = f"sum by (queue_name) ({increase(c.TASK_STARTED, window='$__range', **QUEUE)}) > 0"
    sent = f"sum by (queue_name) ({increase(c.TASK_SENT, window='$__range', **QUEUE)}) > 0"
    return [
        lines(
            "Queue length",
            "Good: returns to 0. Bad: climbs; on Redis a task that a worker has prefetched is not counted.",
            "none",
            Query(seen(c.QUEUE_LENGTH, **QUEUE), "{{queue_name}}"),
        ),
        lines(
            "Oldest task",
            "Good: seconds. Bad: a slope of one second a second: nobody takes.",
            "s",
            Query(seen(c.QUEUE_OLDEST_TASK, **QUEUE), "{{queue_name}}"),
            thresholds=OLDEST_STEPS,
        ),
        lines(
            "Wait in the queue, 95th percentile",
            "Good: under a second. Only of tasks that were started: a stuck queue looks calm here.",
            "s",
            Query(quantile(0.95, c.TASK_QUEUE_WAIT, "queue_name", **TASK), "{{queue_name}}"),
            thresholds=OLDEST_STEPS,
            empty="no waits known",
        ),
        lines(
            "Time to drain",
            "Length over the rate of starts. Good: under a minute. Bad: an hour, which stands for more, and for never: "
            "tasks wait, and none is started.",
            "s",
            Query(_drain(), "{{queue_name}}"),
            thresholds={LIMITS.drain_warning_seconds: "yellow", LIMITS.drain_seconds: "red"},
            empty="nothing waits",
        ),
        lines(
            "Workers and slots, by queue",
            "Good: flat. Bad: 0 workers; or slots that stay while tasks wait: scale out. Consumers: RabbitMQ only.",
            "none",
            Query(seen(c.ACTIVE_WORKERS, **QUEUE), "{{queue_name}} workers"),
            Query(seen(c.ACTIVE_PROCESSES, **QUEUE), "{{queue_name}} slots"),
            Query(seen(c.ACTIVE_CONSUMERS, **QUEUE), "{{queue_name}} consumers"),
        ),
        rows(
            "Started without task-sent",
            "Good: none. Bad: of these queues nobody knows how long their tasks wait: set task_send_sent_event where "
            "they are sent.",
            "none",
            Query(f"({started}) unless ({sent})", "Tasks started"),
            columns={"queue_name": "Queue"},
            thresholds={"Tasks started": {ANY: "yellow"}},
            empty="none",
        ),
    ]
