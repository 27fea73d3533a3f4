"""Panels about workers, which "Overview", "Tasks and queues" and "Monitor" show: who works, and what they tell."""

from __future__ import annotations

from grafana_foundation_sdk.builders import stat
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue, Panel

from dashboards.panel_kinds import amount, bars, lines, named, rows, states, steps_for
from dashboards.queries import ONE_OF_ITS_QUEUES, Query, gauge, increase, rate, seen
from dashboards.thresholds import THRESHOLDS as LIMITS
from loopwatch.telemetry import catalogue as c

__all__ = ["blind_workers", "telemetry", "work", "workers_now"]

WORKER = {"hostname": "$worker"}

STATES = {"1": ("up", "green"), "0": ("stopped", "#8e8e8e"), "-1": ("lost", "red")}


def workers_now(*, width: int = 4) -> stat.Panel:
    """How many work, how many vanished."""
    panel = amount(
        "Workers up and lost",
        "Good: none lost. Bad: lost, a worker that vanished without saying goodbye. Fewer up alone may be a scale-in.",
        "none",
        Query(f"count({gauge(c.WORKER_UP, **WORKER)} == 1) or vector(0)", "up"),
        Query(f"sum({seen(c.WORKER_LOST, **WORKER)}) or vector(0)", "lost"),
        thresholds={1: "green"},
        below="red",
        width=width,
    )
    return panel.override_by_query("B", steps_for({1: "red"}))


def blind_workers(*, width: int = 4) -> stat.Panel:
    """Of how many workers we do not know enough."""
    return amount(
        "Workers hardly seen",
        "Good: 0 and 0. Bad: without task events (start them with -E), or with a snapshot older than "
        f"{LIMITS.snapshot_seconds:.0f} s: other panels are incomplete for these.",
        "none",
        Query(f"count({gauge(c.WORKER_EVENTS_ENABLED, **WORKER)} == 0) or vector(0)", "no events"),
        Query(
            f"count({seen(c.WORKER_SNAPSHOT_AGE, **WORKER)} > {LIMITS.snapshot_seconds:.0f} "
            f"and on (job, hostname) {gauge(c.WORKER_UP)} == 1) or vector(0)",
            "old snapshot",
        ),
        thresholds={1: "yellow"},
        width=width,
    )


def work() -> list[Builder[Panel]]:
    """Who is up, how busy, since when, with which release."""
    up = f"max by (hostname) ({gauge(c.WORKER_UP, **WORKER)})"
    state = f"{up} - max by (hostname) ({seen(c.WORKER_LOST, **WORKER)})"
    active = f"max by (hostname) ({gauge(c.WORKER_TASKS_ACTIVE, **WORKER)})"
    slots = f"max by (hostname) ({gauge(c.WORKER_SLOTS, **WORKER)})"
    facts = "hostname, queue_name, pool_type, release, celery_version, loopwatch_version"
    info = gauge(c.WORKER_INFO, queue_name=ONE_OF_ITS_QUEUES, **WORKER)
    workers = rows(
        "Workers",
        "Good: each is up, and its snapshot a few seconds old. Bad: lost; two releases at once long after a deploy; "
        "task events off.",
        "none",
        Query(state, "State"),
        Query(f"max by ({facts}) ({info})", ""),
        # Not those of processes that report for themselves and are no workers.
        Query(f"time() - max by (hostname) ({gauge(c.WORKER_START_TIME, **WORKER)}) and {up}", "Age"),
        Query(f"max by (hostname) ({seen(c.WORKER_SNAPSHOT_AGE, **WORKER)}) and {up}", "Last snapshot"),
        Query(slots, "Slots"),
        Query(active, "Active tasks"),
        Query(f"min by (hostname) ({gauge(c.WORKER_EVENTS_ENABLED, **WORKER)})", "Task events"),
        columns={
            "hostname": "Worker",
            "queue_name": "Queues",
            "pool_type": "Pool",
            "release": "Release",
            "celery_version": "Celery",
            "loopwatch_version": "loopwatch",
        },
        units={"Age": "dtdurations", "Last snapshot": "s"},
        thresholds={
            "Last snapshot": {LIMITS.snapshot_warning_seconds: "yellow", LIMITS.snapshot_seconds: "red"},
        },
        ascending=True,
        empty="-",  # in the cells of one that is gone, too
        width=24,
    )
    coloured = DynamicConfigValue("custom.cellOptions", {"type": "color-text"})
    workers.override_by_name("State", [DynamicConfigValue("mappings", named(STATES)), coloured])
    events = {"1": ("on", "green"), "0": ("off", "orange")}
    workers.override_by_name("Task events", [DynamicConfigValue("mappings", named(events)), coloured])
    return [
        states(
            "Workers up",
            "Good: green, or grey: it said goodbye. Bad: red, it vanished.",
            Query(state, "{{hostname}}"),
            names=STATES,
        ),
        lines(
            "Slots in use, by worker",
            "Good: under 90%. Bad: 100% with tasks waiting: more workers; 0% with tasks waiting: not consuming.",
            "percentunit",
            Query(f"{active} / ({slots} > 0)", "{{hostname}}"),
            thresholds={LIMITS.slots: "yellow"},
            full=True,
        ),
        workers,
    ]


def telemetry() -> list[Builder[Panel]]:
    """What workers tell the monitor, and what of it is old or missing."""
    return [
        lines(
            "Snapshot age, by worker",
            "Good: a sawtooth under 5 s. Bad: climbs; the worker's numbers are as old.",
            "s",
            Query(seen(c.WORKER_SNAPSHOT_AGE, **WORKER), "{{hostname}}"),
            thresholds={LIMITS.snapshot_warning_seconds: "yellow", LIMITS.snapshot_seconds: "red"},
            empty="no worker uses the library",
        ),
        lines(
            "Snapshots and gaps",
            "Good: one a worker each 5 s, and no gaps. A gap costs freshness; counters catch up with the next one.",
            "ops",
            Query(f"sum by (instance) ({rate(c.MONITOR_SNAPSHOTS)})", "{{instance}} snapshots"),
            Query(f"sum by (instance) ({rate(c.MONITOR_SNAPSHOT_GAPS)})", "{{instance}} gaps"),
        ),
        bars(
            "Telemetry dropped, by reason",
            "Good: none. Dropped rather than make a task wait. channel_full, broker: numbers come late; series_limit: "
            "too many label sets; malformed, foreign, error: look at the worker's log.",
            "none",
            Query(f"sum by (hostname, reason) ({increase(c.TELEMETRY_DROPPED, **WORKER)})", "{{hostname}} {{reason}}"),
            empty="none",
        ),
        bars(
            "Duplicate node names",
            "Two live workers under one. Good: none. Bad: their numbers replace each other: name each (-n).",
            "none",
            Query(f"sum by (instance) ({increase(c.MONITOR_DUPLICATE_NODENAMES)})", "{{instance}}"),
            empty="none",
        ),
        rows(
            "Workers without task events",
            "Good: none. Bad: their tasks are not counted; start them with -E, or set worker_send_task_events.",
            "none",
            Query(f"min by (hostname) ({gauge(c.WORKER_EVENTS_ENABLED, **WORKER)}) == 0", "Task events"),
            columns={"hostname": "Worker"},
            thresholds={"Task events": {0: "orange"}},
            empty="none",
        ),
        rows(
            "Workers with old snapshots",
            "Good: none. Bad: alive, and what they said of loops and pools is old: look for `cannot publish` in their "
            "logs.",
            "s",
            Query(
                f"max by (hostname) ({seen(c.WORKER_SNAPSHOT_AGE, **WORKER)} > {LIMITS.snapshot_seconds:.0f} "
                f"and on (job, hostname) {gauge(c.WORKER_UP)} == 1)",
                "Age",
            ),
            columns={"hostname": "Worker"},
            thresholds={"Age": {0: "red"}},
            empty="none",
        ),
        lines(
            "Age of the background polls",
            "Since the last answer about queues (by the broker) and workers. Good: a sawtooth under a minute or so. "
            "Bad: climbs; lengths and consumers are as old.",
            "s",
            Query(gauge(c.MONITOR_POLL_AGE), "{{instance}} {{poll}}"),
            thresholds={LIMITS.poll_seconds: "red"},
        ),
        bars(
            "Background polls without an answer",
            "Good: none. Bad: many; the broker, or the workers' remote control, do not answer.",
            "none",
            Query(f"sum by (instance, poll) ({increase(c.MONITOR_POLL_FAILURES)})", "{{instance}} {{poll}}"),
            empty="none",
        ),
    ]
