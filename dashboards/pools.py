"""The dashboard "Pool saturation across queues": how full connection pools are, who waits, and who pays."""

from __future__ import annotations

from grafana_foundation_sdk.builders import stat
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from dashboards.building import new_dashboard, numbered, with_section
from dashboards.panel_kinds import ANY, amount, bars, heat, lines, rows
from dashboards.queries import ONE_OF_ITS_QUEUES, Query, bucket_increase, gauge, increase, quantile, rate, recorded
from dashboards.thresholds import THRESHOLDS as LIMITS
from loopwatch.telemetry import catalogue as c

__all__ = ["UID", "build", "wait_now"]

UID = "loopwatch-pools"

POOL = {"hostname": "$worker", "pool": "$pool"}
QUEUE_AND_POOL = {"queue_name": "$queue", "pool": "$pool"}
HISTOGRAMS = {"hostname": "$worker", "queue_name": "$queue", "pool": "$pool"}

USE_STEPS = {LIMITS.utilization_warning: "yellow", LIMITS.utilization: "red"}
WAIT_STEPS = {LIMITS.wait_warning_seconds: "yellow", LIMITS.wait_seconds: "red"}


def build() -> Dashboard:
    """The dashboard."""
    frame = new_dashboard(
        "Pool saturation across queues",
        uid=UID,
        description="How full the connection pools are by queue, worker and process, which tasks wait for a connection "
        "and which pay for it, and the fleet against the database's limit.",
    )
    with_section(frame, "Now", _now())
    with_section(frame, "How full", _use())
    with_section(frame, "Who waits, who pays", _waiting())
    with_section(frame, "Who holds connections", _holding())
    with_section(frame, "Connections that are opened", _opening())
    with_section(frame, "The fleet and its databases", _databases())
    return numbered(frame)


def wait_now(*, width: int = 4) -> stat.Panel:
    """How long tasks wait, of the worst queue."""
    return amount(
        "Wait for a connection p95",
        f"95th percentile, of the queue and pool that wait longest, within 5 minutes. Good: under a millisecond. "
        f"Bad: over {LIMITS.wait_seconds} s.",
        "s",
        # NaN where nobody took a connection.
        Query(f"max(histogram_quantile(0.95, {_waits()}) >= 0)", "wait"),
        thresholds=WAIT_STEPS,
        empty="no use",
        width=width,
    )


def _waits() -> str:
    return recorded("queue:loopwatch_pool_wait_seconds_bucket:rate5m", **QUEUE_AND_POOL)


def _now() -> list[Builder[Panel]]:
    utilization = recorded("process:loopwatch_pool_utilization:ratio", **POOL)
    return [
        amount(
            "Fullest process",
            f"Of its connections, those in use. Good: under {LIMITS.utilization_warning:.0%}. Bad: near 100%.",
            "percentunit",
            Query(f"max({utilization})", "fullest"),
            thresholds=USE_STEPS,
            empty="no pools",
        ),
        wait_now(),
        amount(
            "Tasks that wait",
            "For a connection, at this moment. Good: 0.",
            "none",
            Query(f"sum({gauge(c.POOL_PENDING_REQUESTS, **POOL)})", "waiting"),
            thresholds={1: "yellow"},
        ),
        amount(
            "Timeouts, last 10 min",
            "Good: 0. Each is a task that got no connection in time.",
            "none",
            Query(f"sum({increase(c.POOL_TIMEOUTS, window='10m', **HISTOGRAMS)})", "timeouts"),
            thresholds={ANY: "red"},
        ),
        amount(
            "Longest held connection",
            "Good: seconds. Bad: a quarter of an hour; a leak, unless a task may take so long.",
            "s",
            Query(f"max({gauge(c.POOL_OLDEST_CHECKOUT, **POOL)})", "held for"),
            thresholds={LIMITS.checkout_seconds: "red"},
            empty="0 s",
        ),
        amount(
            "Potential of the database",
            "What all pools of the fleet may open, of what the fullest database takes. Good: under 100%. "
            "Bad: over it, workers can be refused.",
            "percentunit",
            Query(f"max({recorded('database:loopwatch_database_connections:potential_ratio')})", "potential"),
            thresholds={1 + ANY: "red"},
            empty="no budget",
        ),
    ]


def _use() -> list[Builder[Panel]]:
    of_workers = {"queue_name": ONE_OF_ITS_QUEUES, "pool": "$pool"}
    used = recorded("queue:loopwatch_pool_connections_used:sum", **of_workers)
    maximum = recorded("queue:loopwatch_pool_connections_max:sum", **of_workers)
    utilization = recorded("process:loopwatch_pool_utilization:ratio", **POOL)
    peak = f"max by (hostname, slot, pool) ({gauge(c.POOL_CONNECTIONS_PEAK, **POOL)})"
    most = f"max by (hostname, slot, pool) ({gauge(c.POOL_CONNECTIONS_MAX, **POOL)})"
    return [
        lines(
            "Used of maximum, by queue",
            f"Good: under {LIMITS.utilization_warning:.0%}. A worker of two queues is a queue of its own, such as "
            "content,logs.",
            "percentunit",
            Query(
                f"sum by (queue_name, pool) ({used}) / (sum by (queue_name, pool) ({maximum}) > 0)",
                "{{queue_name}} {{pool}}",
            ),
            thresholds=USE_STEPS,
            full=True,
        ),
        lines(
            "Fullest process, by worker",
            "Good: as low as the queue's mean. Bad: one line at 100% while the panel before is calm.",
            "percentunit",
            Query(f"max by (hostname, pool) ({utilization})", "{{hostname}} {{pool}}"),
            thresholds=USE_STEPS,
            full=True,
        ),
        lines(
            "Peak of maximum, by worker",
            "The most in use at once within a minute. Good: under 100%. Bad: 100% while the use is calm: short bursts "
            "need max_overflow.",
            "percentunit",
            Query(f"max by (hostname, pool) ({peak} / ({most} > 0))", "{{hostname}} {{pool}}"),
            thresholds={1: "red"},
            full=True,
        ),
        lines(
            "In use, by the queue of the task",
            "Good: moves with the queue's load. Bad: one queue that holds nearly all while others wait.",
            "none",
            Query(
                f"sum by (queue_name, pool) ({gauge(c.POOL_CHECKED_OUT, **HISTOGRAMS)})",
                "{{queue_name}} {{pool}}",
            ),
            stacked=True,
        ),
    ]


def _waiting() -> list[Builder[Panel]]:
    waited = f"sum by (queue_name, name, pool) ({increase(c.TASK_POOL_WAIT, window='$__range', **QUEUE_AND_POOL)})"
    uses = f"sum by (queue_name, name, pool) ({increase(c.TASK_POOL_USES, window='$__range', **QUEUE_AND_POOL)})"
    return [
        lines(
            "Wait for a connection, by queue",
            "Good: the 99th percentile under some milliseconds. "
            f"Bad: the 95th over {LIMITS.wait_seconds} s, where the alert fires.",
            "s",
            *(
                Query(f"histogram_quantile({part}, {_waits()})", f"{{{{queue_name}}}} {{{{pool}}}} p{part * 100:.0f}")
                for part in (0.5, 0.95, 0.99)
            ),
            thresholds=WAIT_STEPS,
        ),
        heat(
            "Waits for a connection",
            "Good: one band at the bottom. Bad: a second band above half a second.",
            Query(bucket_increase(c.POOL_WAIT, **HISTOGRAMS), "{{le}}"),
            empty="no use",
        ),
        lines(
            "Tasks that wait, by worker",
            "For a connection, at each moment. Good: 0. Bad: stays above 0.",
            "none",
            Query(f"sum by (hostname, pool) ({gauge(c.POOL_PENDING_REQUESTS, **POOL)})", "{{hostname}} {{pool}}"),
            thresholds={1: "yellow"},
        ),
        bars(
            "Timeouts",
            "Good: none. Each is a task that got no connection in time.",
            "none",
            Query(f"sum by (queue_name, pool) ({increase(c.POOL_TIMEOUTS, **HISTOGRAMS)})", "{{queue_name}} {{pool}}"),
            empty="none",
        ),
        rows(
            "Who pays: time waited a use, by task",
            "Good: under a millisecond in each row. The first row pays most.",
            "s",
            Query(f"{waited} / ({uses} > 0)", "Waited a use"),
            Query(f"{waited} and {uses} > 0", "Waited in all"),
            Query(f"{uses} > 0", "Uses"),
            columns={"queue_name": "Queue", "name": "Task", "pool": "Pool"},
            units={"Uses": "none"},
            thresholds={"Waited a use": WAIT_STEPS},
            empty="no use",
            width=24,
        ),
    ]


def _holding() -> list[Builder[Panel]]:
    return [
        lines(
            "Oldest checkout",
            "Good: as long as a task needs. A pool that is too small: a short sawtooth, with tasks waiting. "
            "A leak: a line that climbs.",
            "s",
            Query(f"max by (hostname, pool) ({gauge(c.POOL_OLDEST_CHECKOUT, **POOL)})", "{{hostname}} {{pool}}"),
            thresholds={LIMITS.checkout_seconds: "red"},
        ),
        heat(
            "Time a connection is held",
            "Good: milliseconds. Bad: a band at the LLM's latency: held across an HTTP call. Counted on return, so a "
            "leak is not here.",
            Query(bucket_increase(c.POOL_USE, **HISTOGRAMS), "{{le}}"),
            empty="no use",
        ),
        bars(
            "Leaks",
            "Good: none. Each is a connection that was held longer than leak_threshold; the worker's log has the stack "
            "of its checkout.",
            "none",
            Query(f"sum by (queue_name, pool) ({increase(c.POOL_LEAKS, **HISTOGRAMS)})", "{{queue_name}} {{pool}}"),
            empty="none",
        ),
        lines(
            "Connections, by state",
            "Good: some idle ones. Bad: none idle and tasks waiting; many idle ones are wasted on the database.",
            "none",
            Query(f"sum by (pool, state) ({gauge(c.POOL_CONNECTIONS, **POOL)})", "{{pool}} {{state}}"),
        ),
    ]


def _opening() -> list[Builder[Panel]]:
    return [
        lines(
            "Connections made and invalidated",
            "Good: near 0. Bad: made as often as used (small pool, NullPool), invalidated after a server's restart.",
            "ops",
            Query(f"sum by (pool) ({rate(c.POOL_CREATE, suffix='_count', **POOL)})", "{{pool}} made"),
            Query(f"sum by (pool) ({rate(c.POOL_INVALIDATED, **POOL)})", "{{pool}} invalidated"),
        ),
        lines(
            "Time to connect, 95th percentile",
            "Good: under 50 ms. Bad: the server, or TLS.",
            "s",
            Query(quantile(0.95, c.POOL_CREATE, "pool", **POOL), "{{pool}}"),
            thresholds={LIMITS.connect_warning_seconds: "yellow", LIMITS.connect_seconds: "red"},
            empty="no connection made",
        ),
    ]


def _databases() -> list[Builder[Panel]]:
    holders = f"sum by (job, hostname, pool) ({gauge(c.POOL_CONNECTIONS, **POOL)})"
    database = f"max by (job, hostname, pool, database) ({gauge(c.POOL_INFO, database='.+', **POOL)})"
    limit = f"max by (database) ({gauge(c.DATABASE_CONNECTIONS_LIMIT)})"
    return [
        lines(
            "The fleet and the database",
            "Of those whose limit a connection budget says. Good: potential (what all pools together may open) under "
            "the limit. Used counts idle connections, too.",
            "none",
            Query(f"max by (database) ({gauge(c.DATABASE_CONNECTIONS_USED)}) and {limit}", "{{database}} used"),
            Query(
                f"max by (database) ({gauge(c.DATABASE_CONNECTIONS_POTENTIAL)}) and {limit}", "{{database}} potential"
            ),
            Query(limit, "{{database}} limit"),
            empty="no budget",
        ),
        rows(
            "Who holds the database's connections",
            "Good: as many for each worker as its work needs. Idle ones count: the server holds them, too.",
            "none",
            Query(
                f"topk(20, sum by (database, hostname) ({holders} "
                f"* on (job, hostname, pool) group_left (database) topk by (job, hostname, pool) (1, {database})))",
                "Connections",
            ),
            columns={"database": "Database", "hostname": "Worker"},
        ),
    ]
