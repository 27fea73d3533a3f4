"""The recording rules: what several alerts and panels ask, computed once. Named ``level:metric:operations``.

They carry no ``instance``: what several monitors of one broker say is in them once.
"""

from __future__ import annotations

from collections.abc import Iterator

from dashboards.pace import Pace
from dashboards.vectors import Vector, by_connected, once, series
from loopwatch.telemetry import catalogue as c
from loopwatch.telemetry.catalogue import Metric

__all__ = ["Recordings"]


class Recordings:
    """All recording rules, in the order in which they are computed; by its name each is a vector to be asked."""

    def __init__(self, pace: Pace) -> None:
        self._expressions: dict[str, Vector] = {}
        self._pace = pace
        self._loops()
        self._totals()
        self._pools()
        self._notifications()
        self._tasks()
        self._queues()
        self._databases()

    def __getitem__(self, name: str) -> Vector:
        return Vector(name, self._expressions[name].labels)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Names and expressions."""
        return ((name, vector.text) for name, vector in self._expressions.items())

    def _record(self, name: str, expression: Vector) -> None:
        self._expressions[name] = expression

    def _rate(self, metric: Metric, suffix: str = "", *, minutes: int = 5) -> Vector:
        return once(series(metric, suffix).call("rate", self._pace(60 * minutes)))

    def _loops(self) -> None:
        conflicts = self._rate(c.LOOP_CONFLICTS).sum_without("hostname", "name", "resource", "kind", "source")
        self._record("queue:loopwatch_loop_conflicts:rate5m", conflicts)
        excess = once(series(c.ENGINES)).with_("-", once(series(c.LOOPS)), on=("job", "hostname", "slot"))
        self._record("process:loopwatch_engines:excess", excess)
        lag = self._rate(c.LOOP_LAG, "_bucket")
        self._record("worker:loopwatch_loop_lag_seconds:p99_5m", lag.quantile(0.99))

    def _totals(self) -> None:
        # Of a series that is born at 1 `increase` is 0, and one is a fault already: asked beside it, these tell.
        for metric in (c.LOOP_CONFLICTS, c.LOOPS_UNPLANNED):
            self._record(f"worker:{metric.name.removesuffix('_total')}:max", once(series(metric)))

    def _pools(self) -> None:
        used = once(series(c.POOL_CONNECTIONS, state="used")).max_without("state")
        # A process that has no loop has no connections either: 0 of 0.
        most = once(series(c.POOL_CONNECTIONS_MAX))
        self._record("process:loopwatch_pool_utilization:ratio", used.with_("/", most.then("> 0")))
        self._record("worker:loopwatch_pool_connections_used:sum", used.sum_without("slot"))
        self._record("worker:loopwatch_pool_connections_max:sum", most.sum_without("slot"))
        # One a worker: two monitors may disagree for a moment, and of two the join would refuse all.
        queue_of = by_connected(c.WORKER_INFO).max_by("job", "hostname", "queue_name").one_by("job", "hostname")
        for what in ("used", "max"):
            of_workers = self[f"worker:loopwatch_pool_connections_{what}:sum"]
            by_queue = of_workers.with_("*", queue_of, on=("job", "hostname"), bring=("queue_name",))
            self._record(f"queue:loopwatch_pool_connections_{what}:sum", by_queue.sum_without("hostname"))
        for suffix in ("_bucket", "_count"):
            waits = self._rate(c.POOL_WAIT, suffix).sum_without("hostname")
            self._record(f"queue:loopwatch_pool_wait_seconds{suffix}:rate5m", waits)

    def _notifications(self) -> None:
        for metric in (c.NOTIFICATIONS, c.NOTIFICATION_FAILURES):
            rate = self._rate(metric).sum_without("hostname")
            self._record(f"queue:{metric.name.removesuffix('_total')}:rate5m", rate)

    def _tasks(self) -> None:
        failed = self._rate(c.TASK_FAILED).sum_without("hostname", "exception")
        self._record("task:celery_task_failed:rate5m", failed)
        self._record("task:celery_task_succeeded:rate5m", self._rate(c.TASK_SUCCEEDED).sum_without("hostname"))
        failed, succeeded = self["task:celery_task_failed:rate5m"], self["task:celery_task_succeeded:rate5m"]
        # A sum has no value where one side has no series: a task that always fails was never counted as succeeded.
        finished = succeeded.with_("+", failed).with_("or", succeeded).with_("or", failed)
        self._record("task:celery_task_finished:rate5m", finished)
        started = once(series(c.TASK_STARTED).call("increase", self._pace(600)))
        self._record("worker:celery_task_started:increase10m", started.sum_without("name", "queue_name"))

    def _queues(self) -> None:
        started = self._rate(c.TASK_STARTED, minutes=10).sum_without("name", "hostname")
        self._record("queue:celery_task_started:rate10m", started)
        # A monitor that is cut off goes on to say what the broker answered last.
        self._record("queue:celery_queue_length:max", by_connected(c.QUEUE_LENGTH))
        length, rate = self["queue:celery_queue_length:max"], self["queue:celery_task_started:rate10m"]
        self._record("queue:celery_queue_drain:seconds", length.with_("/", rate))

    def _databases(self) -> None:
        limit = series(c.DATABASE_CONNECTIONS_LIMIT).max_by("job", "database")
        for what, metric in (("used", c.DATABASE_CONNECTIONS_USED), ("potential", c.DATABASE_CONNECTIONS_POTENTIAL)):
            of_limit = series(metric).max_by("job", "database").with_("/", limit)
            self._record(f"database:loopwatch_database_connections:{what}_ratio", of_limit)
