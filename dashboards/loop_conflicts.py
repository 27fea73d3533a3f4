"""The dashboard "Loop conflicts": is a loop-bound resource used on the wrong loop, and what do loops hold."""

from __future__ import annotations

from grafana_foundation_sdk.builders import stat
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from dashboards.building import new_dashboard, numbered, with_section
from dashboards.panel_kinds import ANY, amount, bars, lines, rows, steps_for
from dashboards.queries import Query, at_most_all, gained, gauge, increase, rate, ratio, recorded
from dashboards.thresholds import THRESHOLDS as LIMITS
from loopwatch.telemetry import catalogue as c

__all__ = ["RECENT_SECONDS", "UID", "build", "recent_conflicts"]

UID = "loopwatch-loop-conflicts"

RECENT_SECONDS = int(LIMITS.conflict_recent_seconds)
"""A conflict younger than this is red; the alert LoopwatchLoopConflict fires for as long."""

QUEUE = {"queue_name": "$queue"}
WORKER = {"hostname": "$worker"}
POOL = {"hostname": "$worker", "pool": "$pool"}


def build() -> Dashboard:
    """The dashboard."""
    frame = new_dashboard(
        "Loop conflicts",
        uid=UID,
        description="Resources of one event loop that were used on another, which task does it, the engines that each "
        "loop holds, and what blocks loops.",
    )
    with_section(frame, "Now", _now())
    with_section(frame, "Loop conflicts", _conflicts())
    with_section(frame, "Engines and loops", _engines())
    with_section(frame, "Loops that are held up", _loops())
    return numbered(frame)


def recent_conflicts(*, width: int = 4) -> stat.Panel:
    """How many in the last minutes."""
    return amount(
        f"Loop conflicts, last {RECENT_SECONDS // 60} min",
        "Good: 0 and 0. The second number also counts a conflict that is the first of its series, "
        "whose increase Prometheus cannot see.",
        "none",
        Query(f"sum({increase(c.LOOP_CONFLICTS, window=f'{RECENT_SECONDS}s', **QUEUE)}) or vector(0)", "conflicts"),
        Query(f"count({_since_last_conflict()} < {RECENT_SECONDS}) or vector(0)", "workers"),
        thresholds={ANY: "red"},
        width=width,
    )


def _since_last_conflict() -> str:
    return f"time() - max by (hostname) ({gauge(c.LOOP_CONFLICT_LAST, **WORKER)} > 0)"


def _share_of_tasks() -> str:
    return ratio(
        recorded("queue:loopwatch_loop_conflicts:rate5m", **QUEUE),
        recorded("task:celery_task_finished:rate5m", **QUEUE),
        "queue_name",
    )


def _now() -> list[Builder[Panel]]:
    return [
        recent_conflicts(width=6),
        amount(
            "Conflicts per task, worst queue",
            "To the tasks that ended within 5 minutes; one may meet several. Good: 0%. "
            f"From {LIMITS.conflict_share:.0%} on it is not a single task any more.",
            "percentunit",
            Query(f"max({_share_of_tasks()})", "share"),
            thresholds={ANY: "orange", LIMITS.conflict_share: "red"},
            empty="0%",
            width=6,
        ),
        amount(
            "Engines too many",
            "Good: 0 and 0. Above loops: an engine a run that nobody disposes of. "
            "Of closed loops: one may wait for the next look-up, which sweeps it.",
            "none",
            Query(f"sum({_engines_above_loops()}) or vector(0)", "above loops"),
            Query(f"max({gauge(c.ENGINES_ORPHANED, **POOL)}) or vector(0)", "of closed loops, one process"),
            thresholds={1: "red"},
            width=6,
        ).override_by_query("B", steps_for({LIMITS.orphaned_engines + 1: "red"})),
        amount(
            "Lag of loops, 99th percentile",
            "How late the loop of the worst worker runs what is due. Good: milliseconds. Bad: tenths of a second.",
            "s",
            Query(f"max({recorded('worker:loopwatch_loop_lag_seconds:p99_5m', **WORKER)} >= 0)", "lag"),
            thresholds={LIMITS.loop_lag_warning_seconds: "yellow", LIMITS.loop_lag_seconds: "red"},
            empty="no loops",
            width=6,
        ),
    ]


def _conflicts() -> list[Builder[Panel]]:
    return [
        bars(
            "Conflicts by queue",
            "Good: none. Each bar is a resource of one event loop that a task used on another.",
            "none",
            Query(f"sum by (queue_name) ({increase(c.LOOP_CONFLICTS, **QUEUE)})", "{{queue_name}}"),
            empty="none",
        ),
        bars(
            "Conflicts by resource and kind",
            "Good: none. One colour is one cause; fork_shared points at a client that was made before the fork.",
            "none",
            Query(f"sum by (resource, kind) ({increase(c.LOOP_CONFLICTS, **QUEUE)})", "{{resource}} {{kind}}"),
            empty="none",
        ),
        rows(
            "Conflicts by task",
            "Good: none. The first row is the task to open; the first conflict of a series is in the next table alone. "
            "Source guard: refused in time, or seen by observe(); exception, event: it happened.",
            "none",
            Query(
                "topk(20, sum by (queue_name, name, resource, kind, source) "
                f"({increase(c.LOOP_CONFLICTS, window='$__range', **QUEUE)}) > 0)",
                "Conflicts",
            ),
            columns={"queue_name": "Queue", "name": "Task", "resource": "Resource", "kind": "Kind", "source": "Source"},
            thresholds={"Conflicts": {ANY: "red"}},
            empty="none",
            width=16,
        ),
        rows(
            "Time since the last conflict, by worker",
            "Good: none, or days.",
            "dtdurations",
            Query(_since_last_conflict(), "Since"),
            columns={"hostname": "Worker"},
            thresholds={"Since": {0: "red", RECENT_SECONDS: "transparent"}},
            ascending=True,
            empty="none",
            width=8,
        ),
        rows(
            "Conflicts by worker and task",
            "Good: none. As by task, for each worker, and with those that are the first of their series.",
            "none",
            Query(
                "topk(50, sum by (hostname, queue_name, name, resource, kind, source) "
                f"({gained(c.LOOP_CONFLICTS, window='$__range', **QUEUE, **WORKER)}) > 0)",
                "Conflicts",
            ),
            columns={
                "hostname": "Worker",
                "queue_name": "Queue",
                "name": "Task",
                "resource": "Resource",
                "kind": "Kind",
                "source": "Source",
            },
            thresholds={"Conflicts": {ANY: "red"}},
            empty="none",
            width=24,
        ),
        lines(
            "Conflicts per task, by queue",
            f"Good: none. From {LIMITS.conflict_share:.0%} on every deploy makes it worse: stop and repair. "
            "A task may meet several: 100% is not the most.",
            "percentunit",
            Query(_share_of_tasks(), "{{queue_name}}"),
            thresholds={LIMITS.conflict_share: "red"},
            empty="none",
        ),
        lines(
            "Failed notifications",
            "Share of the auxiliary operations of a queue. Good: none. loop_conflict moves with the conflicts and has "
            "their cause; timeout and error together are the message broker.",
            "percentunit",
            Query(
                at_most_all(
                    "sum by (queue_name, operation, reason) "
                    f"({recorded('queue:loopwatch_notification_failures:rate5m', **QUEUE)} > 0) "
                    "/ on (queue_name, operation) group_left () (sum by (queue_name, operation) "
                    f"({recorded('queue:loopwatch_notifications:rate5m', **QUEUE)}) > 0)"
                ),
                "{{queue_name}} {{operation}} {{reason}}",
            ),
            thresholds={LIMITS.notification_share: "red"},
            empty="none",
        ),
    ]


def _engines_above_loops() -> str:
    return f"{recorded('process:loopwatch_engines:excess', **POOL)} > 0"


def _engines() -> list[Builder[Panel]]:
    return [
        lines(
            "Engines above loops, by process",
            "Good: none. Bad: a staircase, which is an engine a run that nobody disposes of.",
            "none",
            Query(_engines_above_loops(), "{{hostname}} {{slot}} {{pool}}"),
            thresholds={1: "red"},
            empty="none",
        ),
        lines(
            "Engines and loops, by worker",
            "Good: flat, engines = loops x pools.",
            "none",
            Query(f"sum by (hostname) ({gauge(c.ENGINES, **POOL)})", "{{hostname}} engines"),
            Query(f"sum by (hostname) ({gauge(c.LOOPS, **WORKER)})", "{{hostname}} loops"),
        ),
        lines(
            "Engines of closed loops",
            "Good: 0, or 1 until the next sweep. Bad: grows.",
            "none",
            Query(f"max by (hostname, pool) ({gauge(c.ENGINES_ORPHANED, **POOL)})", "{{hostname}} {{pool}}"),
            thresholds={LIMITS.orphaned_engines + 1: "red"},
        ),
        lines(
            "Engines made",
            "Good: near 0 (loops live long). Bad: as high as the rate of tasks, an engine a task.",
            "ops",
            Query(f"sum by (hostname, pool) ({rate(c.ENGINES_CREATED, **POOL)})", "{{hostname}} {{pool}}"),
        ),
        lines(
            "Engines disposed of, by reason",
            "Good: loop_end, process_exit. Bad: loop_closed (the loop was closed without its end; swept late), fork.",
            "ops",
            Query(f"sum by (reason) ({rate(c.ENGINES_DISPOSED, **POOL)})", "{{reason}}"),
            stacked=True,
        ),
        rows(
            "Loops beyond the plan",
            "Good: none. Each is a loop that made a pool in a process whose connection budget had no room for it: "
            "plan for as many loops as a process really has.",
            "none",
            Query(f"sum by (hostname, pool) ({gained(c.LOOPS_UNPLANNED, window='$__range', **POOL)}) > 0", "Loops"),
            columns={"hostname": "Worker", "pool": "Pool"},
            thresholds={"Loops": {ANY: "red"}},
            empty="none",
        ),
    ]


def _loops() -> list[Builder[Panel]]:
    steps = {LIMITS.loop_lag_warning_seconds: "yellow", LIMITS.loop_lag_seconds: "red"}
    return [
        lines(
            "Loop lag p99",
            "How late a loop runs what is due, 99th percentile. Good: milliseconds. Bad: tenths of a second; code that "
            "blocks the loop.",
            "s",
            Query(recorded("worker:loopwatch_loop_lag_seconds:p99_5m", **WORKER), "{{hostname}}"),
            thresholds=steps,
        ),
        lines(
            "Longest lag of the last minute",
            "Good: under the red line. Bad: one call that blocks, which the percentile hides; a lag that goes on is in "
            "it, too.",
            "s",
            Query(f"max by (hostname) ({gauge(c.LOOP_LAG_MAX, **WORKER)})", "{{hostname}}"),
            thresholds=steps,
        ),
        bars(
            "Stalls",
            "Good: none. A loop that others waited for ran nothing for longer than stall_threshold; the worker's log "
            "has the stack.",
            "none",
            Query(f"sum by (hostname) ({increase(c.LOOP_STALLS, **WORKER)})", "{{hostname}}"),
            empty="none",
        ),
        lines(
            "Longest running task",
            "Good: a sawtooth. Bad: a line that only climbs. Waiting for a future of another loop raises nothing, it "
            "hangs.",
            "s",
            Query(gauge(c.TASK_OLDEST_RUNNING, **QUEUE, **WORKER), "{{hostname}} {{queue_name}}"),
            thresholds={LIMITS.running_seconds: "red"},
        ),
    ]
