"""Every metric that loopwatch exposes: name, kind, help, labels and buckets, in one place.

The library counts into these families, the wire names them, the monitor and the direct-scrape collector
render them, and tests compare dashboards, rules and documentation with them.

Naming follows the Prometheus conventions (prometheus/docs: naming.md, instrumentation.md). The pool families
map one to one onto OpenTelemetry's database client metrics (semantic conventions, ``db.client.connection.*``);
``Metric.otel`` says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CELERY_PREFIX",
    "METRICS",
    "PREFIX",
    "Metric",
    "Origin",
    "by_name",
    "exposed_names",
]

PREFIX = "loopwatch_"
CELERY_PREFIX = "celery_"

Kind = Literal["counter", "gauge", "histogram"]
Origin = Literal["process", "node", "monitor", "celery"]


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """One metric family.

    Attributes:
        name: the full name; counters end in ``_total``.
        kind: ``counter``, ``gauge`` or ``histogram``.
        help: one sentence for ``# HELP``.
        labels: label names as exposed, in order.
        buckets: upper bounds in seconds, without ``+Inf``; empty unless a histogram.
        origin: who produces it: a ``process`` (sent in its snapshot, without ``hostname`` and ``slot``),
            a ``node`` (the monitor derives it from a node's snapshot), the ``monitor`` about itself,
            or ``celery`` (from Celery's own events, under celery-exporter's names).
        otel: the OpenTelemetry metric that it corresponds to, if any.
        merge: how a gauge's values from several loops, or from several slots where the family has no label
            ``slot``, become one: their ``sum`` or their ``max``.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    origin: Origin = "process"
    otel: str = ""
    merge: Literal["sum", "max"] = "sum"

    @property
    def wire_name(self) -> str:
        """The name in a snapshot: without the common prefix, which every byte of a datagram would repeat."""
        return self.name.removeprefix(PREFIX)

    @property
    def own_labels(self) -> tuple[str, ...]:
        """The labels that the process itself knows: all but ``hostname`` and ``slot``, which its node adds."""
        return tuple(label for label in self.labels if label not in ("hostname", "slot"))

    def sample_names(self) -> tuple[str, ...]:
        """The names that appear on a page, without ``_created``."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (self.name,)


METRICS: list[Metric] = []
"""Every family, in the order in which they are rendered."""


def _metric(
    name: str,
    kind: Kind,
    help: str,
    *labels: str,
    buckets: tuple[float, ...] = (),
    origin: Origin = "process",
    otel: str = "",
    merge: Literal["sum", "max"] = "sum",
) -> Metric:
    metric = Metric(name, kind, help, labels, buckets, origin, otel, merge)
    METRICS.append(metric)
    return metric


# ---------------------------------------------------------------- loops and engines (a process's snapshot)
LOOPS = _metric("loopwatch_loops", "gauge", "Live event loops that hold a resource.", "hostname", "slot")
ENGINES = _metric(
    "loopwatch_engines", "gauge", "Per-loop engines (pools, clients) that are alive.", "hostname", "slot", "pool"
)
ENGINES_ORPHANED = _metric(
    "loopwatch_engines_orphaned", "gauge", "Per-loop engines whose loop is closed.", "hostname", "slot", "pool"
)
ENGINES_CREATED = _metric(
    "loopwatch_engines_created_total", "counter", "Per-loop engines that were made.", "hostname", "pool"
)
ENGINES_DISPOSED = _metric(
    "loopwatch_engines_disposed_total",
    "counter",
    "Per-loop engines that were disposed of, by reason: "
    "loop_end, loop_closed (swept late), fork, explicit, process_exit.",
    "hostname",
    "pool",
    "reason",
)
LOOPS_UNPLANNED = _metric(
    "loopwatch_loops_unplanned_total",
    "counter",
    "Loops that made a pool while as many as the connection budget plans for a process had one.",
    "hostname",
    "pool",
)

LOOP_LAG = _metric(
    "loopwatch_loop_lag_seconds",
    "histogram",
    "How late a loop ran a timer that was due each 0.1 seconds; a run that begins is not late for the pause before it.",
    "hostname",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0),
)
LOOP_LAG_MAX = _metric(
    "loopwatch_loop_lag_max_seconds",
    "gauge",
    "The longest lag of a loop in the last 60 seconds, one that is still going on included.",
    "hostname",
    "slot",
    merge="max",
)
LOOP_STALLS = _metric(
    "loopwatch_loop_stalls_total",
    "counter",
    "Times that a loop others waited for ran nothing for longer than stall_threshold; the stack is in the log.",
    "hostname",
)

# ---------------------------------------------------------------- pools
POOL_INFO = _metric(
    "loopwatch_pool_info",
    "gauge",
    "Always 1: which pool holds what resource and goes to which database (no credentials).",
    "hostname",
    "pool",
    "resource",
    "database",
    merge="max",
)
POOL_CONNECTIONS = _metric(
    "loopwatch_pool_connections",
    "gauge",
    "Open connections by state: idle or used.",
    "hostname",
    "slot",
    "pool",
    "state",
    otel="db.client.connection.count",
)
POOL_CONNECTIONS_MAX = _metric(
    "loopwatch_pool_connections_max",
    "gauge",
    "Connections that the pool may hold at most, over this process's live loops.",
    "hostname",
    "slot",
    "pool",
    otel="db.client.connection.max",
)
POOL_CONNECTIONS_PEAK = _metric(
    "loopwatch_pool_connections_peak",
    "gauge",
    "The most connections in use at once in the last 60 seconds.",
    "hostname",
    "slot",
    "pool",
)
POOL_PENDING_REQUESTS = _metric(
    "loopwatch_pool_pending_requests",
    "gauge",
    "Tasks that wait for a connection now.",
    "hostname",
    "slot",
    "pool",
    otel="db.client.connection.pending_requests",
)
POOL_OLDEST_CHECKOUT = _metric(
    "loopwatch_pool_oldest_checkout_seconds",
    "gauge",
    "How long the connection that is held longest has been held; 0 when none is.",
    "hostname",
    "slot",
    "pool",
    merge="max",
)
POOL_CHECKED_OUT = _metric(
    "loopwatch_pool_checked_out_connections",
    "gauge",
    "Connections in use, by the queue of the task that holds them.",
    "hostname",
    "queue_name",
    "pool",
)
POOL_WAIT = _metric(
    "loopwatch_pool_wait_seconds",
    "histogram",
    "How long a task waited for a connection, waits that timed out included.",
    "hostname",
    "queue_name",
    "pool",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    otel="db.client.connection.wait_time",
)
POOL_USE = _metric(
    "loopwatch_pool_use_seconds",
    "histogram",
    "How long a task held a connection.",
    "hostname",
    "queue_name",
    "pool",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0),
    otel="db.client.connection.use_time",
)
POOL_CREATE = _metric(
    "loopwatch_pool_create_seconds",
    "histogram",
    "How long it took to open a connection.",
    "hostname",
    "pool",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0),
    otel="db.client.connection.create_time",
)
POOL_TIMEOUTS = _metric(
    "loopwatch_pool_timeouts_total",
    "counter",
    "Waits for a connection that ended in a timeout.",
    "hostname",
    "queue_name",
    "pool",
    otel="db.client.connection.timeouts",
)
POOL_LEAKS = _metric(
    "loopwatch_pool_leaks_total",
    "counter",
    "Connections that were held longer than the pool's leak_threshold.",
    "hostname",
    "queue_name",
    "pool",
)
POOL_INVALIDATED = _metric(
    "loopwatch_pool_invalidated_total", "counter", "Connections that were invalidated.", "hostname", "pool"
)
TASK_POOL_WAIT = _metric(
    "loopwatch_task_pool_wait_seconds_total",
    "counter",
    "Seconds that tasks of this name waited for a connection.",
    "queue_name",
    "name",
    "pool",
)
TASK_POOL_USES = _metric(
    "loopwatch_task_pool_uses_total",
    "counter",
    "Connections that tasks of this name took from the pool.",
    "queue_name",
    "name",
    "pool",
)

# ---------------------------------------------------------------- conflicts and auxiliary operations
LOOP_CONFLICTS = _metric(
    "loopwatch_loop_conflicts_total",
    "counter",
    "A resource of one event loop was used on another; kind: cross_loop, closed_loop, fork_shared; "
    "source: guard (refused, or seen by observe), exception, event (seen by the monitor only).",
    "hostname",
    "queue_name",
    "name",
    "resource",
    "kind",
    "source",
)
NOTIFICATIONS = _metric(
    "loopwatch_notifications_total",
    "counter",
    "Auxiliary operations (loopwatch.tolerated) that were tried.",
    "hostname",
    "queue_name",
    "operation",
)
NOTIFICATION_FAILURES = _metric(
    "loopwatch_notification_failures_total",
    "counter",
    "Auxiliary operations that failed, by reason: timeout, loop_conflict, error.",
    "hostname",
    "queue_name",
    "operation",
    "reason",
)
TASK_OLDEST_RUNNING = _metric(
    "loopwatch_task_oldest_running_seconds",
    "gauge",
    "How long the task that has been running longest has been running; a line that only climbs is a hang.",
    "hostname",
    "queue_name",
    merge="max",
)
TELEMETRY_DROPPED = _metric(
    "loopwatch_telemetry_dropped_total",
    "counter",
    "Telemetry that was dropped rather than make a task wait: "
    "channel_full, broker, series_limit (label sets beyond the bound), report_limit (conflicts to be sent whole), "
    "malformed, foreign (sent by another user's process), error.",
    "hostname",
    "reason",
)
TELEMETRY_DROP_REASONS = ("channel_full", "broker", "series_limit", "report_limit", "malformed", "foreign", "error")
"""The monitor shows each at 0 from a node's first snapshot on: `increase` of a series that is born at 1 is 0."""

# ---------------------------------------------------------------- a node, derived by the monitor
LOOP_CONFLICT_LAST = _metric(
    "loopwatch_loop_conflict_last_timestamp_seconds",
    "gauge",
    "When the last loop conflict of this worker was seen, by the monitor's clock; 0 = never.",
    "hostname",
    origin="node",
)
DATABASE_CONNECTIONS_LIMIT = _metric(
    "loopwatch_database_connections_limit",
    "gauge",
    "Connections that the database takes in all, by the budget that the pools were made with.",
    "database",
    merge="max",
)
DATABASE_CONNECTIONS_POTENTIAL = _metric(
    "loopwatch_database_connections_potential",
    "gauge",
    "Connections that all pools of the fleet together may open to this database.",
    "database",
    origin="node",
)
DATABASE_CONNECTIONS_USED = _metric(
    "loopwatch_database_connections_used",
    "gauge",
    "Connections, idle and used, that all pools of the fleet hold to this database.",
    "database",
    origin="node",
)
WORKER_INFO = _metric(
    "loopwatch_worker_info",
    "gauge",
    "Always 1: what the worker is, for joins; queue_name is its one queue, or all of them sorted.",
    "hostname",
    "queue_name",
    "pool_type",
    "celery_version",
    "loopwatch_version",
    "release",
    origin="node",
)
WORKER_QUEUE = _metric(
    "loopwatch_worker_queue", "gauge", "Always 1: the worker consumes this queue.", "hostname", "queue_name",
    origin="node",
)  # fmt: skip
WORKER_SLOTS = _metric(
    "loopwatch_worker_slots", "gauge", "Processes or threads that the worker runs tasks in.", "hostname",
    origin="node",
)  # fmt: skip
WORKER_START_TIME = _metric(
    "loopwatch_worker_start_time_seconds", "gauge", "When the worker started, Unix time.", "hostname", origin="node"
)
WORKER_SNAPSHOT_AGE = _metric(
    "loopwatch_worker_snapshot_age_seconds",
    "gauge",
    "Seconds since the worker's last snapshot, by the monitor's clock.",
    "hostname",
    origin="node",
)

WORKER_LOST = _metric(
    "loopwatch_worker_lost", "gauge", "1 while the worker is down and has not said goodbye.", "hostname", origin="node"
)
WORKER_EVENTS_ENABLED = _metric(
    "loopwatch_worker_events_enabled",
    "gauge",
    "0 while the worker works and sends no task events (start it with -E), 1 once it has sent some; "
    "no series while it has done nothing that would tell.",
    "hostname",
    origin="node",
)
QUEUE_OLDEST_TASK = _metric(
    "loopwatch_queue_oldest_task_seconds",
    "gauge",
    "Time since the oldest task that has not been started was sent, by the monitor's clock; 0 when there is none. "
    "Tasks with a countdown or an eta do not count.",
    "queue_name",
    origin="node",
)

# ---------------------------------------------------------------- the monitor about itself
MONITOR_EVENTS = _metric(
    "loopwatch_monitor_events_total", "counter", "Events folded, by type.", "event", origin="monitor"
)
MONITOR_EVENTS_MALFORMED = _metric(
    "loopwatch_monitor_events_malformed_total",
    "counter",
    "Events that could not be read, by reason.",
    "reason",
    origin="monitor",
)
MONITOR_EVENTS_LOST = _metric(
    "loopwatch_monitor_events_lost_total",
    "counter",
    "Events that are known to be lost, by reason: buffer_full (they came faster than they could be taken in), "
    "disconnected (one a connection that Redis closed with more to send: how much is not known, nor what was sent "
    "during an outage).",
    "reason",
    origin="monitor",
)
MONITOR_BUFFER = _metric(
    "loopwatch_monitor_buffer_bytes",
    "gauge",
    "Bytes that were read from the broker and are not decoded yet.",
    origin="monitor",
)
MONITOR_LAG = _metric(
    "loopwatch_monitor_lag_seconds",
    "gauge",
    "Age of the newest event when it was folded, by the sender's clock.",
    origin="monitor",
)
MONITOR_LAST_EVENT = _metric(
    "loopwatch_monitor_last_event_timestamp_seconds",
    "gauge",
    "When the last event arrived, Unix time; 0 = none yet.",
    origin="monitor",
)
MONITOR_BROKER_UP = _metric(
    "loopwatch_monitor_broker_up", "gauge", "1 while the monitor is connected to the broker.", origin="monitor"
)
MONITOR_RECONNECTS = _metric(
    "loopwatch_monitor_reconnects_total", "counter", "Connections to the broker that were lost.", origin="monitor"
)
MONITOR_BROKER_DOWN = _metric(
    "loopwatch_monitor_broker_down_seconds_total",
    "counter",
    "Seconds without a connection to the broker since the monitor started.",
    origin="monitor",
)
MONITOR_EVICTIONS = _metric(
    "loopwatch_monitor_evictions_total", "counter", "Entries evicted from a full table.", "table", origin="monitor"
)
MONITOR_TABLE_ENTRIES = _metric(
    "loopwatch_monitor_table_entries", "gauge", "Entries in a table of the monitor.", "table", origin="monitor"
)
MONITOR_TABLE_LIMIT = _metric(
    "loopwatch_monitor_table_limit", "gauge", "The most entries that a table may hold.", "table", origin="monitor"
)
MONITOR_SERIES_DROPPED = _metric(
    "loopwatch_monitor_series_dropped_total",
    "counter",
    "Label sets that were not exposed because their family was full.",
    "family",
    origin="monitor",
)
MONITOR_SNAPSHOTS = _metric(
    "loopwatch_monitor_snapshots_total", "counter", "Snapshots of workers that were folded.", origin="monitor"
)
MONITOR_SNAPSHOT_GAPS = _metric(
    "loopwatch_monitor_snapshot_gaps_total",
    "counter",
    "Snapshots that never arrived, by their sequence numbers.",
    origin="monitor",
)
MONITOR_DUPLICATE_NODENAMES = _metric(
    "loopwatch_monitor_duplicate_nodenames_total",
    "counter",
    "Times that two live workers were seen under one node name.",
    origin="monitor",
)
MONITOR_POLL_AGE = _metric(
    "loopwatch_monitor_poll_age_seconds",
    "gauge",
    "Seconds since the last answer, or since the start while there is none: queues (asked of the broker), workers.",
    "poll",
    origin="monitor",
)
MONITOR_POLL_FAILURES = _metric(
    "loopwatch_monitor_poll_failures_total",
    "counter",
    "Questions in the background that were not answered; the last answer stays.",
    "poll",
    origin="monitor",
)
MONITOR_BUILD_INFO = _metric(
    "loopwatch_monitor_build_info",
    "gauge",
    "Always 1: the monitor's version.",
    "version",
    "python_version",
    origin="monitor",
)
MONITOR_WEB_CONFIG_RELOADED = _metric(
    "loopwatch_monitor_web_config_last_reload_successful",
    "gauge",
    "1 while the web configuration in use is what its file says, 0 once the file was changed and cannot be used.",
    origin="monitor",
)

# ---------------------------------------------------------------- Celery's own, under celery-exporter's names
_TASK = ("name", "hostname", "queue_name")


def _task_counter(verb: str, help: str, *more: str) -> Metric:
    return _metric(f"celery_task_{verb}_total", "counter", help, *_TASK, *more, origin="celery")


TASK_SENT = _task_counter("sent", "Tasks that were sent.")
TASK_RECEIVED = _task_counter("received", "Tasks that a worker received.")
TASK_STARTED = _task_counter("started", "Tasks that were started.")
TASK_SUCCEEDED = _task_counter("succeeded", "Tasks that succeeded.")
TASK_FAILED = _task_counter("failed", "Tasks that failed, by exception class.", "exception")
TASK_REJECTED = _task_counter("rejected", "Tasks that were rejected.")
TASK_REVOKED = _task_counter("revoked", "Tasks that were revoked.")
TASK_RETRIED = _task_counter("retried", "Tasks that were retried.")
TASK_RUNTIME = _metric(
    "celery_task_runtime",
    "histogram",
    "How long tasks ran, in seconds.",
    *_TASK,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    origin="celery",
)
TASK_QUEUE_WAIT = _metric(
    "celery_task_queue_wait_time",
    "histogram",
    "How long tasks waited between being sent and being started, in seconds.",
    *_TASK,
    buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
    origin="celery",
)
WORKER_UP = _metric(
    "celery_worker_up", "gauge", "1 while the worker sends heartbeats, else 0.", "hostname", origin="celery"
)
WORKER_TASKS_ACTIVE = _metric(
    "celery_worker_tasks_active", "gauge", "Tasks that the worker is working on.", "hostname", origin="celery"
)
QUEUE_LENGTH = _metric(
    "celery_queue_length", "gauge", "Messages that wait in the queue, of all priorities.", "queue_name", origin="celery"
)
ACTIVE_CONSUMERS = _metric(
    "celery_active_consumer_count",
    "gauge",
    "Consumers of the queue, where the broker knows (RabbitMQ).",
    "queue_name",
    origin="celery",
)
ACTIVE_WORKERS = _metric(
    "celery_active_worker_count", "gauge", "Workers that are up and consume the queue.", "queue_name", origin="celery"
)
ACTIVE_PROCESSES = _metric(
    "celery_active_process_count",
    "gauge",
    "Processes or threads of the workers that are up and consume the queue.",
    "queue_name",
    origin="celery",
)

_BY_NAME = {metric.name: metric for metric in METRICS}
_BY_WIRE_NAME = {metric.wire_name: metric for metric in METRICS if metric.origin == "process"}


def by_name(name: str) -> Metric:
    """The family of this full name; ``KeyError`` when there is none."""
    return _BY_NAME[name]


def by_wire_name(name: str) -> Metric | None:
    """The family that a snapshot calls so, or ``None``: a newer sender may know more than we do."""
    return _BY_WIRE_NAME.get(name)


def exposed_names() -> Iterator[str]:
    """Every sample name that a page of ours can hold (without ``_created``)."""
    for metric in METRICS:
        yield from metric.sample_names()
