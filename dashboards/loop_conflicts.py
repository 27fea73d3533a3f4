"""The dashboard "Loop conflicts and pools": is a loop-bound resource used on the wrong loop, and what do pools hold."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from dashboards.building import amount, bars, heat, lines, new_dashboard, numbered, rows
from dashboards.queries import Query, bucket_increase, gauge, increase, quantile, rate
from loopwatch.telemetry import catalogue as c

__all__ = ["RECENT_SECONDS", "UID", "build"]

UID = "loopwatch-loop-conflicts"

RECENT_SECONDS = 600
"""A conflict younger than this is red; the alert LoopwatchLoopConflict fires for as long."""

ANY = 0.001
"""The threshold for "not one": of a single event Prometheus' extrapolation may leave a little less than 1."""

QUEUE = {"queue_name": "$queue"}
WORKER = {"hostname": "$worker"}
POOL = {"hostname": "$worker", "pool": "$pool"}
QUEUE_AND_POOL = {"queue_name": "$queue", "pool": "$pool"}


def build() -> Dashboard:
    """The dashboard."""
    frame = new_dashboard(
        "Loop conflicts and pools",
        uid=UID,
        description="Resources of one event loop that were used on another, the engines that each loop holds, "
        "and how full their connection pools are, by queue and worker.",
    )
    for heading, panels in (
        ("Loop conflicts", _conflicts()),
        ("Engines and loops", _engines()),
        ("Connection pools", _pools()),
        ("Connections of the fleet", _connections()),
    ):
        frame.with_row(dashboard.Row(heading))
        for panel in panels:
            frame.with_panel(panel)
    return numbered(frame)


def _since_last_conflict() -> str:
    return f"time() - max by (hostname) ({gauge(c.LOOP_CONFLICT_LAST, **WORKER)} > 0)"


def _conflicts() -> list[Builder[Panel]]:
    return [
        amount(
            f"Loop conflicts, last {RECENT_SECONDS // 60} min",
            "Good: 0 and 0. The second number also counts a conflict that is the first of its series, "
            "whose increase Prometheus cannot see.",
            "short",
            Query(f"sum({increase(c.LOOP_CONFLICTS, window=f'{RECENT_SECONDS}s', **QUEUE)})", "conflicts"),
            Query(f"count({_since_last_conflict()} < {RECENT_SECONDS}) or vector(0)", "workers with one"),
            thresholds={ANY: "red"},
        ),
        bars(
            "Conflicts by queue",
            "Good: empty. Each bar is a resource of one event loop that a task used on another.",
            "ops",
            Query(f"sum by (queue_name) ({rate(c.LOOP_CONFLICTS, **QUEUE)})", "{{queue_name}}"),
        ),
        rows(
            "Conflicts by task",
            "The first row is the task to open. "
            "Source guard: refused in time, or seen by observe(); exception, event: it happened.",
            "short",
            Query(
                "topk(20, sum by (queue_name, name, resource, kind, source) "
                f"({increase(c.LOOP_CONFLICTS, window='$__range', **QUEUE)}) > 0)",
                "Conflicts",
            ),
            columns={"queue_name": "Queue", "name": "Task", "resource": "Resource", "kind": "Kind", "source": "Source"},
            thresholds={ANY: "red"},
        ),
        bars(
            "Conflicts by resource and kind",
            "One colour is one cause; fork_shared points at a client that was made before the fork.",
            "ops",
            Query(f"sum by (resource, kind) ({rate(c.LOOP_CONFLICTS, **QUEUE)})", "{{resource}} {{kind}}"),
        ),
        rows(
            "Time since the last conflict, by worker",
            "Good: empty, or days.",
            "s",
            Query(_since_last_conflict(), "Since"),
            columns={"hostname": "Worker"},
        ),
        lines(
            "Failed notifications",
            "Share of the auxiliary operations. Good: empty. loop_conflict moves with the conflicts and has their "
            "cause; timeout and error together are the message broker.",
            "percentunit",
            Query(
                f"sum by (queue_name, reason) ({rate(c.NOTIFICATION_FAILURES, **QUEUE)}) "
                f"/ on (queue_name) group_left () sum by (queue_name) ({rate(c.NOTIFICATIONS, **QUEUE)})",
                "{{queue_name}} {{reason}}",
            ),
            thresholds={0.05: "red"},
        ),
        lines(
            "Longest running task",
            "Bad: a line that only climbs. Waiting for a future of another loop raises nothing, it hangs.",
            "s",
            Query(gauge(c.TASK_OLDEST_RUNNING, **QUEUE), "{{hostname}} {{queue_name}}"),
            thresholds={3600: "red"},
        ),
    ]


def _engines() -> list[Builder[Panel]]:
    return [
        lines(
            "Engines above loops, by process",
            "Good: empty. Bad: a staircase, which is an engine a run that nobody disposes of.",
            "short",
            Query(
                f"({gauge(c.ENGINES, **POOL)} - on (job, hostname, slot) group_left () {gauge(c.LOOPS, **WORKER)}) > 0",
                "{{hostname}} {{slot}} {{pool}}",
            ),
            thresholds={ANY: "red"},
        ),
        lines(
            "Engines and loops, by worker",
            "Good: flat, engines = loops x pools.",
            "short",
            Query(f"sum by (hostname) ({gauge(c.ENGINES, **POOL)})", "{{hostname}} engines"),
            Query(f"sum by (hostname) ({gauge(c.LOOPS, **WORKER)})", "{{hostname}} loops"),
        ),
        lines(
            "Engines of closed loops",
            "Good: 0, or 1 until the next sweep. Bad: grows.",
            "short",
            Query(f"sum by (hostname, pool) ({gauge(c.ENGINES_ORPHANED, **POOL)})", "{{hostname}} {{pool}}"),
            thresholds={2: "yellow"},
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
    ]


def _used_of_max(*by: str) -> str:
    labels = ", ".join(by)
    used = gauge(c.POOL_CONNECTIONS, state="used", **POOL)
    return f"max by ({labels}) (max without (state) ({used}) / {gauge(c.POOL_CONNECTIONS_MAX, **POOL)})"


def _by_queue(connections: str) -> str:
    queue_of_worker = f"max by (job, hostname, queue_name) ({gauge(c.WORKER_INFO)})"
    by_worker = f"sum by (job, hostname, pool) ({connections})"
    return f"sum by (queue_name, pool) ({by_worker} * on (job, hostname) group_left (queue_name) {queue_of_worker})"


def _pools() -> list[Builder[Panel]]:
    used = _by_queue(gauge(c.POOL_CONNECTIONS, state="used", **POOL))
    maximum = _by_queue(gauge(c.POOL_CONNECTIONS_MAX, **POOL))
    return [
        lines(
            "Used of maximum, by queue",
            "Good: under 0.7. A worker of two queues is a queue of its own, such as content,logs.",
            "percentunit",
            Query(f"{used} / {maximum}", "{{queue_name}} {{pool}}"),
            thresholds={0.7: "yellow", 0.9: "red"},
        ),
        lines(
            "Fullest process, by worker",
            "Bad: one line at 1 while the panel before is calm.",
            "percentunit",
            Query(_used_of_max("hostname", "pool"), "{{hostname}} {{pool}}"),
            thresholds={0.9: "red"},
        ),
        lines(
            "Peak of maximum, by worker",
            "The most in use at once in the last minute. Bad: 1 while the use is calm; short bursts need max_overflow.",
            "percentunit",
            Query(
                f"max by (hostname, pool) ({gauge(c.POOL_CONNECTIONS_PEAK, **POOL)} "
                f"/ {gauge(c.POOL_CONNECTIONS_MAX, **POOL)})",
                "{{hostname}} {{pool}}",
            ),
            thresholds={1: "red"},
        ),
        lines(
            "Wait for a connection, by queue",
            "Good: the 99th percentile under some milliseconds. Bad: over 0.5 s.",
            "s",
            *(
                Query(quantile(share, c.POOL_WAIT, "queue_name", **QUEUE_AND_POOL), f"{{{{queue_name}}}} p{share:.0%}")
                for share in (0.5, 0.95, 0.99)
            ),
            thresholds={0.5: "red"},
        ),
        heat(
            "Wait for a connection",
            "Good: one band at the bottom. Bad: a second band above 0.5 s.",
            Query(bucket_increase(c.POOL_WAIT, **QUEUE_AND_POOL), "{{le}}"),
        ),
        rows(
            "Who pays: time waited a use, by task",
            "The first row pays most.",
            "s",
            Query(
                f"topk(10, sum by (queue_name, name, pool) ({rate(c.TASK_POOL_WAIT, window='$__range', **QUEUE)}) "
                f"/ (sum by (queue_name, name, pool) ({rate(c.TASK_POOL_USES, window='$__range', **QUEUE)}) > 0))",
                "Waited a use",
            ),
            columns={"queue_name": "Queue", "name": "Task", "pool": "Pool"},
            thresholds={0.5: "red"},
        ),
        lines(
            "Waiting now",
            "Tasks that wait for a connection. Good: 0.",
            "short",
            Query(f"sum by (hostname, pool) ({gauge(c.POOL_PENDING_REQUESTS, **POOL)})", "{{hostname}} {{pool}}"),
            thresholds={ANY: "yellow"},
        ),
        bars(
            "Timeouts",
            "Good: 0. Each is a task that got no connection in time.",
            "short",
            Query(
                f"sum by (queue_name, pool) ({increase(c.POOL_TIMEOUTS, **QUEUE_AND_POOL)})", "{{queue_name}} {{pool}}"
            ),
        ),
        lines(
            "Oldest checkout",
            "A pool that is too small: a short sawtooth, with tasks waiting. A leak: a line that climbs.",
            "s",
            Query(f"max by (hostname, pool) ({gauge(c.POOL_OLDEST_CHECKOUT, **POOL)})", "{{hostname}} {{pool}}"),
            thresholds={900: "red"},
        ),
        heat(
            "Time a connection is held",
            "Bad: a band at the LLM's latency: held across an HTTP call. Counted on return, so a leak is not here.",
            Query(bucket_increase(c.POOL_USE, **QUEUE_AND_POOL), "{{le}}"),
        ),
    ]


def _connections() -> list[Builder[Panel]]:
    holders = f"sum by (job, hostname, pool) ({gauge(c.POOL_CONNECTIONS, **POOL)})"
    database_of_pool = f"max by (job, hostname, pool, database) ({gauge(c.POOL_INFO, **POOL)})"
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
            thresholds={0.25: "yellow", 1: "red"},
        ),
        lines(
            "The fleet and the database",
            "Used (idle ones included), and what all pools together may open: compare it with max_connections.",
            "short",
            Query(f"max by (database) ({gauge(c.DATABASE_CONNECTIONS_USED)})", "{{database}} used"),
            Query(f"max by (database) ({gauge(c.DATABASE_CONNECTIONS_POTENTIAL)})", "{{database}} potential"),
        ),
        rows(
            "Who holds the database's connections",
            "Idle ones count: the server holds them, too.",
            "short",
            Query(
                f"topk(20, sum by (database, hostname) ({holders} "
                f"* on (job, hostname, pool) group_left (database) {database_of_pool}))",
                "Connections",
            ),
            columns={"database": "Database", "hostname": "Worker"},
        ),
    ]
