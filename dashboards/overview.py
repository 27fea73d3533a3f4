"""The dashboard "Overview": is anything wrong now, and since when."""

from __future__ import annotations

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, DynamicConfigValue, Panel

from dashboards import loop_conflicts, monitor, pools, runbook, tasks, workers
from dashboards.building import leading_to, link_to, new_dashboard, numbered, with_section
from dashboards.panel_kinds import ANY, amount, bars, dial, levels, lines, named, rows, steps_for
from dashboards.queries import (
    ONE_OF_ITS_QUEUES,
    Query,
    at_most_all,
    firing,
    gauge,
    increase,
    of_monitors,
    recorded,
    seen,
    share,
)
from dashboards.thresholds import THRESHOLDS as LIMITS
from loopwatch.telemetry import catalogue as c

__all__ = ["UID", "build"]

UID = "loopwatch-overview"

QUEUE = {"queue_name": "$queue"}
WORKER = {"hostname": "$worker"}
POOL = {"hostname": "$worker", "pool": "$pool"}

ALERT_LABELS = "alertname, severity, queue_name, hostname, pool, database"


def build() -> Dashboard:
    """The dashboard."""
    frame = new_dashboard(
        "Overview",
        uid=UID,
        description="Is anything wrong now? Green is good; each number leads to the dashboard that says why.",
    )
    with_section(frame, "Is anything wrong now?", [*_application(), *_fleet(), *_alerts()])
    with_section(frame, "Since when", _since_when())
    return numbered(frame)


def _application() -> list[Builder[Panel]]:
    firing_now = amount(
        "Alerts that fire",
        "Good: 0 and 0. The table below names them and leads to what to do.",
        "none",
        Query(f"count({firing(severity='critical')}) or vector(0)", "critical"),
        Query(f"count({firing(severity='warning|info')}) or vector(0)", "others"),
        thresholds={1: "red"},
    ).override_by_query("B", steps_for({1: "orange"}))
    return [
        leading_to(runbook.UID, "Runbook", firing_now),
        leading_to(loop_conflicts.UID, "Loop conflicts", loop_conflicts.recent_conflicts()),
        leading_to(
            pools.UID,
            "Pool saturation",
            dial(
                "Fullest pool of a process",
                f"Of its connections, those in use. Good: under {LIMITS.utilization_warning:.0%}. Bad: near 100%; "
                "a mean over the workers would hide one full process.",
                "percentunit",
                Query(f"max({recorded('process:loopwatch_pool_utilization:ratio', **POOL)})", "fullest"),
                thresholds={LIMITS.utilization_warning: "yellow", LIMITS.utilization: "red"},
                empty="no pools",
            ),
        ),
        leading_to(pools.UID, "Pool saturation", pools.wait_now()),
        leading_to(
            tasks.UID,
            "Tasks and queues",
            amount(
                "Failed tasks, worst queue",
                f"Share of the tasks that ended within 5 minutes. Good: under {LIMITS.failure_warning:.0%}.",
                "percentunit",
                Query(f"max({_failed_tasks()})", "failed"),
                thresholds={LIMITS.failure_warning: "yellow", LIMITS.failure_share: "red"},
                empty="0%",
            ),
        ),
        leading_to(
            loop_conflicts.UID,
            "Loop conflicts",
            amount(
                "Failed notifications",
                "Share of the auxiliary operations that were tried within 5 minutes, of the worst queue. Good: 0%.",
                "percentunit",
                Query(f"max({_failed_notifications('queue_name')})", "failed"),
                thresholds={ANY: "yellow", LIMITS.notification_share: "red"},
                empty="0%",
            ),
        ),
    ]


def _fleet() -> list[Builder[Panel]]:
    return [
        leading_to(
            tasks.UID,
            "Tasks and queues",
            amount(
                "Oldest waiting task",
                "Of all queues. Good: seconds. Bad: grows by a second each second: nobody takes tasks from that queue.",
                "s",
                Query(f"max({seen(c.QUEUE_OLDEST_TASK, **QUEUE)})", "oldest"),
                thresholds={LIMITS.oldest_task_warning_seconds: "yellow", LIMITS.oldest_task_seconds: "red"},
                empty="0 s",
            ),
        ),
        leading_to(tasks.UID, "Tasks and queues", tasks.queues_without_worker()),
        leading_to(tasks.UID, "Tasks and queues", workers.workers_now()),
        leading_to(tasks.UID, "Tasks and queues", workers.blind_workers()),
        leading_to(
            loop_conflicts.UID,
            "Loop conflicts",
            amount(
                "Longest loop lag",
                "How late an event loop ran what was due, within the last minute. Good: milliseconds. "
                "Bad: code that blocks the loop.",
                "s",
                Query(f"max({gauge(c.LOOP_LAG_MAX, **WORKER)})", "longest"),
                thresholds={LIMITS.loop_lag_warning_seconds: "yellow", LIMITS.loop_lag_seconds: "red"},
                empty="no loops",
            ),
        ),
        leading_to(monitor.UID, "Monitor", monitor.monitors_now()),
    ]


def _alerts() -> list[Builder[Panel]]:
    since = f"max by ({ALERT_LABELS}) ({firing('ALERTS_FOR_STATE')})"
    active = f"(time() - {since}) and max by ({ALERT_LABELS}) ({firing()})"
    table = rows(
        "Firing alerts",
        "Good: none. The last column leads to what the alert means, how to confirm it and how to fix it.",
        "dtdurations",
        Query(f'label_join({active}, "runbook", "", "alertname")', "Active for"),
        columns={
            "alertname": "Alert",
            "severity": "Severity",
            "queue_name": "Queue",
            "hostname": "Worker",
            "pool": "Pool",
            "database": "Database",
            "runbook": "Runbook",
        },
        empty="none",
        width=16,
    )
    # The text of a cell is what its link is made of: the number of the alert's panel, in the place of its name.
    numbers = {alert: (str(number), "text") for alert, number in runbook.numbers().items()}
    link = link_to("What to do", runbook.UID, "viewPanel=${__value.text}&").build()
    table.override_by_name(
        "Runbook", [DynamicConfigValue("mappings", named(numbers)), DynamicConfigValue("links", [link])]
    )
    severities = {"critical": ("critical", "red"), "warning": ("warning", "orange"), "info": ("info", "blue")}
    table.override_by_name(
        "Severity",
        [
            DynamicConfigValue("mappings", named(severities)),
            DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ],
    )
    database = levels(
        "Connections of the databases",
        "Of the connections that a database takes. Good: potential under 100%. Bad: potential over it (a worker can be "
        f"refused), used over {LIMITS.database:.0%} (one soon is).",
        "percentunit",
        Query(
            f"max by (database) ({recorded('database:loopwatch_database_connections:used_ratio')})", "{{database}} used"
        ),
        Query(
            f"max by (database) ({recorded('database:loopwatch_database_connections:potential_ratio')})",
            "{{database}} potential",
        ),
        thresholds={LIMITS.database_warning: "yellow", LIMITS.database: "red"},
        empty="no budget",
        width=8,
    ).override_by_query("B", steps_for({ANY + 1: "red"}))
    return [table, leading_to(pools.UID, "Pool saturation", database)]


def _since_when() -> list[Builder[Panel]]:
    return [
        bars(
            "Loop conflicts by queue",
            "Good: none. Each bar is a resource of one event loop that a task used on another.",
            "none",
            Query(f"sum by (queue_name) ({increase(c.LOOP_CONFLICTS, **QUEUE)})", "{{queue_name}}"),
            empty="none",
        ),
        lines(
            "Fullest pool of a process, by queue of its worker",
            f"Good: under {LIMITS.utilization_warning:.0%}. Bad: a line at 100%: the next task of that process waits.",
            "percentunit",
            Query(_fullest_by_queue(), "{{queue_name}} {{pool}}"),
            thresholds={LIMITS.utilization_warning: "yellow", LIMITS.utilization: "red"},
            full=True,
            empty="no pools",
        ),
        lines(
            "Failed tasks, share by queue",
            "Good: flat and low. Bad: a step; compare it with the marks of worker starts.",
            "percentunit",
            Query(_failed_tasks(), "{{queue_name}}"),
            thresholds={LIMITS.failure_warning: "yellow", LIMITS.failure_share: "red"},
            empty="no failed tasks",
        ),
        lines(
            "Failed notifications, share by reason",
            "Good: none. loop_conflict: our own loops. timeout and error together: the message broker.",
            "percentunit",
            Query(
                at_most_all(
                    f"sum by (reason) ({recorded('queue:loopwatch_notification_failures:rate5m', **QUEUE)} > 0) "
                    f"/ on () group_left () (sum({recorded('queue:loopwatch_notifications:rate5m', **QUEUE)}) > 0)"
                ),
                "{{reason}}",
            ),
            thresholds={LIMITS.notification_share: "red"},
            empty="none",
        ),
        lines(
            "Oldest waiting task, by queue",
            "Good: seconds. Bad: a slope of one second a second: nothing of this queue is started.",
            "s",
            Query(seen(c.QUEUE_OLDEST_TASK, **QUEUE), "{{queue_name}}"),
            thresholds={LIMITS.oldest_task_warning_seconds: "yellow", LIMITS.oldest_task_seconds: "red"},
        ),
        lines(
            "Monitors and workers",
            "Good: flat. Bad: a line that falls and stays down; a scale-in looks the same, and loses nobody.",
            "none",
            Query(f"sum({of_monitors('up')})", "monitors up"),
            Query(f"count({gauge(c.WORKER_UP, **WORKER)} == 1)", "workers up"),
            Query(f"sum({seen(c.WORKER_LOST, **WORKER)})", "workers lost"),
        ),
    ]


def _failed_tasks() -> str:
    return share(
        recorded("task:celery_task_failed:rate5m", **QUEUE),
        recorded("task:celery_task_finished:rate5m", **QUEUE),
        "queue_name",
    )


def _failed_notifications(*by: str) -> str:
    return share(
        recorded("queue:loopwatch_notification_failures:rate5m", **QUEUE),
        recorded("queue:loopwatch_notifications:rate5m", **QUEUE),
        *by,
    )


def _fullest_by_queue() -> str:
    info = gauge(c.WORKER_INFO, queue_name=ONE_OF_ITS_QUEUES)
    # One a worker, should two monitors disagree for a moment about its queues.
    queues = f"topk by (job, hostname) (1, max by (job, hostname, queue_name) ({info}))"
    fullest = f"max by (job, hostname, pool) ({recorded('process:loopwatch_pool_utilization:ratio', **POOL)})"
    return f"max by (queue_name, pool) ({fullest} * on (job, hostname) group_left (queue_name) {queues})"
