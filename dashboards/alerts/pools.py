"""Alerts about connection pools, the database behind them, and the operations that may fail."""

from __future__ import annotations

from dashboards.alerts.alert import Alert, Given
from dashboards.vectors import Vector, once, series
from loopwatch.telemetry import catalogue as c

__all__ = ["alerts"]

POOLS = "loopwatch-pools"


def alerts(given: Given) -> list[Alert]:
    """All of them."""
    return [*_pools(given), _leak(given), *_databases(given), _notifications(given)]


def _pools(given: Given) -> list[Alert]:
    limits, recorded = given.limits, given.recorded
    # The fullest process, not the worker's sum: a task waits although the process beside it has connections to spare.
    # Its mean, as a sample a scrape hits a full pool by chance.
    used = recorded["process:loopwatch_pool_utilization:ratio"].call("avg_over_time", given.pace(300))
    wait = recorded["queue:loopwatch_pool_wait_seconds_bucket:rate5m"].quantile(0.95).then(f"> {limits.wait_seconds:g}")
    often = recorded["queue:loopwatch_pool_wait_seconds_count:rate5m"].then(f"> {limits.wait_rate:g}")
    timeouts = once(given.above_least(series(c.POOL_TIMEOUTS), seconds=600)).sum_without("hostname").then("> 0")
    return [
        Alert(
            name="PoolSaturated",
            severity="warning",
            when=used.max_without("slot").then(f"> {limits.utilization:g}"),
            lasts=300,
            summary="A process uses nearly all connections of a pool.",
            description="A process of worker {hostname} has used {{ $value | humanizePercentage }} of its pool {pool}: "
            "see whether tasks wait, and how long they hold a connection.",
            panel=(POOLS, "Fullest process, by worker"),
        ),
        Alert(
            name="PoolWaiters",
            severity="warning",
            when=wait.with_("and", often),
            lasts=600,
            summary="Tasks wait for a connection.",
            description="Tasks of queue {queue_name} wait {{ $value | humanizeDuration }} for a connection of pool "
            "{pool} (95th percentile): see who holds them for how long.",
            panel=(POOLS, "Wait for a connection, by queue"),
        ),
        Alert(
            name="PoolTimeouts",
            severity="critical",
            when=timeouts,
            summary="Tasks got no connection in time.",
            description="Tasks of queue {queue_name} got no connection of pool {pool} in time, "
            '{{ $value | printf "%.0f" }} in ten minutes, and failed if they did not try again: find what holds the '
            "connections.",
            panel=(POOLS, "Timeouts"),
        ),
    ]


def _leak(given: Given) -> Alert:
    # Not `loopwatch_pool_leaks_total`: it stays when the connection is back.
    held = once(series(c.POOL_OLDEST_CHECKOUT)).max_without("slot")
    return Alert(
        name="ConnectionLeak",
        severity="warning",
        when=held.then(f"> {given.limits.checkout_seconds:g}"),
        lasts=300,
        summary="A connection has been held for very long.",
        description="A task of worker {hostname} has held a connection of pool {pool} for "
        "{{ $value | humanizeDuration }}: leak_threshold makes the worker's log show where it was taken.",
        panel=(POOLS, "Oldest checkout"),
    )


def _databases(given: Given) -> list[Alert]:
    def ratio(what: str) -> Vector:
        return given.recorded[f"database:loopwatch_database_connections:{what}_ratio"]

    return [
        Alert(
            name="DatabaseOvercommitted",
            severity="warning",
            when=ratio("potential").then("> 1"),
            lasts=900,
            summary="The pools of the fleet may open more connections than the database takes.",
            description="All pools together may open {{ $value | humanizePercentage }} of the connections that the "
            "database {database} takes: at the next peak it refuses some; plan the pools with loopwatch.budget.",
            panel=(POOLS, "The fleet and the database"),
        ),
        Alert(
            name="DatabaseNearLimit",
            severity="critical",
            when=ratio("used").then(f"> {given.limits.database:g}"),
            lasts=120,
            summary="The fleet holds nearly all connections of the database.",
            description="The fleet holds {{ $value | humanizePercentage }} of the connections that the database "
            "{database} takes: it is about to refuse some; see who holds them.",
            panel=(POOLS, "Who holds the database's connections"),
        ),
    ]


def _notifications(given: Given) -> Alert:
    limits, recorded = given.limits, given.recorded
    failed = recorded["queue:loopwatch_notification_failures:rate5m"]
    tried = recorded["queue:loopwatch_notifications:rate5m"]
    # What is tried in one window may fail in the next, and "110 % fail" is nothing to tell anybody.
    share = failed.with_("/", tried, on=("job", "queue_name", "operation")).at_most(1)
    enough = failed.then(given.in_five_minutes).then(f">= {limits.notification_count:g}")
    # A rate over five minutes makes an outage of two look like seven.
    still = given.increase(c.NOTIFICATION_FAILURES, seconds=120).sum_without("hostname").then("> 0")
    return Alert(
        name="NotificationsFailing",
        severity="warning",
        when=share.then(f"> {limits.notification_share:g}").with_("and", enough).with_("and", still),
        lasts=300,
        summary="Auxiliary operations of tasks fail.",
        description="Of the operations {operation} in queue {queue_name}, {{ $value | humanizePercentage }} fail by "
        "{reason}: loop_conflict is a loop conflict like any other, timeout and error are the service they talk to.",
        panel=("loopwatch-loop-conflicts", "Failed notifications"),
    )
