"""Alerts about event loops: conflicts, engines that nobody disposes of, loops that are blocked, tasks that hang."""

from __future__ import annotations

from dashboards.alerts.alert import Alert, Given
from dashboards.vectors import once, series
from loopwatch.telemetry import catalogue as c

__all__ = ["alerts"]

CONFLICTS = "loopwatch-loop-conflicts"

QUEUES_OF_WORKER = (
    '{{- with printf "max by (queue_name) (loopwatch_worker_info{hostname=%q})" $labels.hostname | query }} (queue'
    "{{- range . }} {{ .Labels.queue_name }}{{ end }}){{ end }}"
)
"""The queue of a worker in parentheses, where it is known."""


def alerts(given: Given) -> list[Alert]:
    """All of them."""
    return [*_conflicts(given), *_engines(given), *_loops(given), _hung(given)]


def _conflicts(given: Given) -> list[Alert]:
    limits, recorded = given.limits, given.recorded
    # The time of the last conflict is asked, not the counter: `increase()` of a counter that is born at 1 is 0, and a
    # single conflict is a fault already. It does not have to last: a conflict is over as soon as it has happened.
    last = series(c.LOOP_CONFLICT_LAST).then("> 0")
    recent = once(last).after("time() -").then(f"< {given.pace.seconds(limits.conflict_recent_seconds):g}")

    rate = recorded["queue:loopwatch_loop_conflicts:rate5m"]
    finished = recorded["task:celery_task_finished:rate5m"].sum_without("name")
    # `unless`, not `and`: of workers that send no events of tasks nobody knows how many there were.
    few = rate.with_("<=", finished.after(f"{limits.conflict_share:g} *"))
    burning = rate.then(given.in_five_minutes).then(f"> {limits.conflict_count:g}").with_("unless", few)
    return [
        Alert(
            name="LoopConflict",
            severity="warning",
            when=recent,
            summary="A task used a resource of another event loop.",
            description=f"A task of worker {{hostname}} {QUEUES_OF_WORKER} used a resource of another event loop "
            "{{ $value | humanizeDuration }} ago: the panel names task and resource, the runbook the line to change.",
            panel=(CONFLICTS, "Conflicts by worker and task"),
        ),
        Alert(
            name="LoopConflictsBurning",
            severity="critical",
            when=burning,
            lasts=300,
            summary="Tasks of a queue use resources of other event loops all the time.",
            description='Tasks of queue {queue_name} met {{ $value | printf "%.0f" }} loop conflicts in five minutes: '
            "find task and resource in the panel, and roll back if they came with a release.",
            panel=(CONFLICTS, "Conflicts by queue"),
        ),
    ]


def _engines(given: Given) -> list[Alert]:
    # By worker: what the code does wrong it does in each of its processes, and that is one cause.
    excess = given.recorded["process:loopwatch_engines:excess"].max_without("slot").then("> 0")
    orphaned = once(series(c.ENGINES_ORPHANED)).max_without("slot").then(f"> {given.limits.orphaned_engines:g}")
    return [
        Alert(
            name="EngineLeak",
            severity="warning",
            when=excess,
            lasts=300,
            summary="A process holds more engines than it has event loops.",
            description="A process of worker {hostname} holds {{ $value }} engines of pool {pool} more than it has "
            "event loops: look for engines or clients that are made in tasks.",
            panel=(CONFLICTS, "Engines above loops, by process"),
        ),
        Alert(
            name="EngineOnClosedLoop",
            severity="warning",
            when=orphaned,
            lasts=600,
            summary="Engines of closed event loops are not disposed of.",
            description="A process of worker {hostname} holds {{ $value }} engines of pool {pool} whose loops are "
            "closed: their connections stay open until another loop uses the pool; look for a bare loop.close().",
            panel=(CONFLICTS, "Engines of closed loops"),
        ),
    ]


def _loops(given: Given) -> list[Alert]:
    limits = given.limits
    # One look at the clock a block: a loop that stands for ten seconds is late once, not a hundred times, and the
    # quantile does not see it. Many short blocks are no stalls.
    late = given.recorded["worker:loopwatch_loop_lag_seconds:p99_5m"].then(f"> {limits.loop_lag_seconds:g}")
    stalls = given.increase(c.LOOP_STALLS, seconds=600).then(f">= {limits.stall_count:g}")
    # A busy worker makes all its loops before it is scraped first: its series is born above 0, and never increases.
    total = given.recorded["worker:loopwatch_loops_unplanned:max"]
    new = total.with_("unless", total.call("max_over_time", given.pace(86400), offset=given.pace(3600)))
    unplanned = new.with_("or", given.above_least(total, seconds=3600)).then("> 0")
    return [
        Alert(
            name="LoopBlocked",
            severity="warning",
            when=late.with_("or", stalls),
            # As long as the window of the stalls: one bad minute is over by then.
            lasts=600,
            summary="Code that blocks keeps the event loops of a worker from running.",
            description="The event loops of worker {hostname} run late again and again, every coroutine on them with "
            "them: the worker's log shows the code that blocks (has run nothing else for).",
            panel=(CONFLICTS, "Loop lag p99"),
        ),
        Alert(
            name="LoopsUnplanned",
            severity="warning",
            when=unplanned,
            summary="A process has more event loops with a pool than its connection budget plans.",
            description="Worker {hostname} opened more loops with the pool {pool} than its budget plans, "
            '{{ $value | printf "%.0f" }} times in the last hour: the fleet may ask the database for more than it has.',
            panel=(CONFLICTS, "Loops beyond the plan"),
        ),
    ]


def _hung(given: Given) -> Alert:
    return Alert(
        name="TaskHung",
        severity="warning",
        when=once(series(c.TASK_OLDEST_RUNNING)).then(f"> {given.limits.running_seconds:g}"),
        lasts=300,
        summary="A task has been running for very long.",
        description="A task of queue {queue_name} on worker {hostname} has been running for "
        "{{ $value | humanizeDuration }}: if it waits for a future of another event loop it never ends.",
        panel=(CONFLICTS, "Longest running task"),
    )
