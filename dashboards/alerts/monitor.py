"""Alerts about the monitor itself: when it sees nothing, too little, or too late, no other alert can be believed."""

from __future__ import annotations

from dashboards.alerts.alert import Alert, Given
from dashboards.vectors import Vector, once, series
from loopwatch.telemetry import catalogue as c

__all__ = ["JOBS", "alerts"]

MONITOR = "loopwatch-monitor"
JOBS = 'job=~"loopwatch.*"'
"""The scrape jobs that are monitors: `up` is all that is left of one that is down."""
UP = Vector(f"up{{{JOBS}}}", frozenset({"job", "instance"}))


def alerts(given: Given) -> list[Alert]:
    """All of them."""
    return [*_blind(given), *_incomplete(given), *_bounds(given), *_misconfigured(given)]


def _blind(given: Given) -> list[Alert]:
    # Without any target there is no series of `up` to be 0; `absent` then has no labels.
    gone = Vector(f"absent({UP})", frozenset({"job"}))
    connected = once(series(c.MONITOR_BROKER_UP))
    # Of several monitors one is enough: of one that is cut off LosingEvents tells.
    return [
        Alert(
            name="MonitorDown",
            severity="critical",
            when=UP.max_by("job").then("== 0").with_("or", gone),
            lasts=120,
            summary="No monitor is up, and no other alert of loopwatch can fire.",
            description="Prometheus cannot scrape any monitor of job {{ or $labels.job `loopwatch` }}: see its "
            "process, its log, and the error on Prometheus' page of targets.",
            panel=(MONITOR, "Monitors up"),
        ),
        Alert(
            name="MonitorDisconnected",
            severity="critical",
            when=connected.then("== 0"),
            lasts=120,
            summary="No monitor has a connection to its broker.",
            description="The monitors of job {job} run and reach no broker, so that nothing is counted: see the "
            "broker, and the monitor's log for the reason (broker_unreachable).",
            panel=(MONITOR, "Broker connection"),
        ),
    ]


def _incomplete(given: Given) -> list[Alert]:
    # What is sent while there is no connection is lost, too, and nobody knows how much it was.
    lost = given.own_increase(c.MONITOR_EVENTS_LOST, seconds=600).sum_without("reason")
    cuts = given.own_increase(c.MONITOR_RECONNECTS, seconds=600)
    unreadable = given.own_increase(c.MONITOR_EVENTS_MALFORMED, seconds=600).then("> 0")
    # The lag is the last event's: when none comes any more it says nothing.
    last_event = series(c.MONITOR_LAST_EVENT).after("time() -")
    late = series(c.MONITOR_LAG).then(f"> {given.limits.monitor_lag_seconds:g}")
    return [
        Alert(
            name="MonitorLosingEvents",
            severity="warning",
            when=lost.with_("+", cuts).then("> 0"),
            summary="The monitor has lost events, and its counters are too low.",
            description='Monitor {instance} lost {{ $value | printf "%.0f" }} events in ten minutes, each lost '
            "connection counted as one (what is sent in between is not known): the panel tells which it was.",
            panel=(MONITOR, "Lost events, by reason"),
        ),
        Alert(
            name="MonitorBehind",
            severity="warning",
            when=late.with_("and", last_event.then(f"< {given.pace.seconds(60):g}")),
            lasts=300,
            summary="The monitor reads events late.",
            description="Monitor {instance} reads events {{ $value | humanizeDuration }} after they were sent: give it "
            "more of a processor, or look for a worker whose clock is wrong.",
            panel=(MONITOR, "Lag"),
        ),
        Alert(
            name="EventsMalformed",
            severity="warning",
            when=unreadable,
            # As long as the window: a single one does not matter.
            lasts=600,
            summary="The monitor receives events that it cannot read.",
            description='Monitor {instance} could not read {{ $value | printf "%.0f" }} events in ten minutes, by '
            "{reason}: what they told is missing everywhere.",
            panel=(MONITOR, "Malformed events, by reason"),
        ),
    ]


def _bounds(given: Given) -> list[Alert]:
    full = series(c.MONITOR_TABLE_ENTRIES).with_("/", series(c.MONITOR_TABLE_LIMIT))
    return [
        Alert(
            name="TableFull",
            severity="warning",
            when=full.then(f"> {given.limits.monitor_table_share:g}"),
            lasts=600,
            summary="A table of the monitor is nearly full.",
            description="The table {table} of monitor {instance} is {{ $value | humanizePercentage }} full: at its "
            "limit tasks are forgotten, or new workers and series are not shown.",
            panel=(MONITOR, "Tables against their bounds"),
        ),
        Alert(
            name="SeriesDropped",
            severity="warning",
            when=given.own_increase(c.MONITOR_SERIES_DROPPED, seconds=600).then("> 0"),
            summary="The monitor does not show all series.",
            description="Monitor {instance} left out facts of {family}, because the family is full: find the label "
            "with too many values.",
            panel=(MONITOR, "Evicted entries and dropped series"),
        ),
    ]


def _misconfigured(given: Given) -> list[Alert]:
    stale = series(c.MONITOR_POLL_AGE).then(f"> {given.limits.poll_seconds:g}")
    # Two under one name are found once, and are two for as long as they live.
    duplicates = given.increase(c.MONITOR_DUPLICATE_NODENAMES, seconds=3600).then("> 0")
    return [
        Alert(
            name="PollFailing",
            severity="warning",
            when=stale,
            lasts=300,
            summary="A question that the monitor asks in the background is not answered.",
            description="Monitor {instance} has had no answer about the {poll} for {{ $value | humanizeDuration }}, "
            "and shows what it knew before: its log has the reason (poll_failed).",
            panel=(MONITOR, "Age of the background polls"),
        ),
        Alert(
            name="WebConfigNotReloaded",
            severity="warning",
            when=series(c.MONITOR_WEB_CONFIG_RELOADED).then("== 0"),
            lasts=300,
            summary="The monitor's web configuration was changed and cannot be used.",
            description="Monitor {instance} goes on with the web configuration it had before: its log tells what is "
            "wrong with the new one (web_config_not_reloaded).",
            panel=(MONITOR, "Web configuration"),
        ),
        Alert(
            name="DuplicateNodeName",
            severity="warning",
            when=duplicates,
            summary="Two live workers share one node name.",
            description="Two workers of job {job} live under one node name, and their gauges replace each other: the "
            "monitor's log names it (duplicate_node_name).",
            panel=(MONITOR, "Duplicate node names"),
        ),
    ]
