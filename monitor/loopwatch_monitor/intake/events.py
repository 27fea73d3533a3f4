"""What the monitor reads of each event: the few fields that it uses, typed.

What an event carries: Celery's `celery/events/` and the worker's and amqp's `send_event` calls, 5.x; the last two are
the library's own.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias, get_args

import msgspec

from loopwatch.telemetry.wire import CONFLICT_TYPE, EVENT_TYPE

__all__ = [
    "KINDS",
    "AnyEvent",
    "ConflictReport",
    "Event",
    "OtherEvent",
    "Snapshot",
    "SnapshotInfo",
    "TaskEvent",
    "TaskFailed",
    "TaskReceived",
    "TaskRejected",
    "TaskRetried",
    "TaskRevoked",
    "TaskSent",
    "TaskStarted",
    "TaskSucceeded",
    "WorkerHeartbeat",
    "WorkerOffline",
    "WorkerOnline",
]

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Python's own may have 400 digits, which Prometheus takes for infinite, and refuses the page."""


class Event(msgspec.Struct, kw_only=True, gc=False, tag_field="type"):
    """What every event carries. ``timestamp``: Unix time in seconds, by the sender's clock."""

    kind: ClassVar[str]
    hostname: Name
    timestamp: float


class TaskEvent(Event):
    """What every event of a task carries: the task's id."""

    uuid: Id


class TaskSent(TaskEvent, tag="task-sent"):
    """A client sent a task; the only event of Celery's that names a queue. ``hostname`` is the client's; ``eta``: when
    it is to be started at the earliest, if that is not at once."""

    kind = "task-sent"
    name: str | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    eta: Any = None


class TaskReceived(TaskEvent, tag="task-received"):
    """A worker took a task from its queue."""

    kind = "task-received"
    name: str | None = None


class TaskStarted(TaskEvent, tag="task-started"):
    """A worker runs a task."""

    kind = "task-started"


class TaskSucceeded(TaskEvent, tag="task-succeeded"):
    """A task returned. ``runtime``: seconds."""

    kind = "task-succeeded"
    runtime: float | None = None


class TaskFailed(TaskEvent, tag="task-failed"):
    """A task raised. ``exception`` is the exception's repr."""

    kind = "task-failed"
    exception: str | None = None
    traceback: str | None = None


class TaskRetried(TaskEvent, tag="task-retried"):
    """A task asked to be run again. ``exception`` is "None" when it gave no reason."""

    kind = "task-retried"
    exception: str | None = None
    traceback: str | None = None


class TaskRevoked(TaskEvent, tag="task-revoked"):
    """A task was revoked or expired."""

    kind = "task-revoked"


class TaskRejected(TaskEvent, tag="task-rejected"):
    """A worker rejected a task; with ``requeue`` it will be received again."""

    kind = "task-rejected"
    requeue: bool | None = None


class WorkerOnline(Event, tag="worker-online"):
    """A worker started. ``active``: tasks that it works on; ``processed``: tasks that it began since its start."""

    kind = "worker-online"
    active: Whole | None = None
    processed: Whole | None = None


class WorkerHeartbeat(Event, tag="worker-heartbeat"):
    """A worker is alive."""

    kind = "worker-heartbeat"
    active: Whole | None = None
    processed: Whole | None = None


class WorkerOffline(Event, tag="worker-offline"):
    """A worker stops, and says so."""

    kind = "worker-offline"


class SnapshotInfo(msgspec.Struct):
    """What a node is; `loopwatch.telemetry.wire.NodeInfo`."""

    kind: str = "celery"
    pool_type: str = ""
    queues: list[str] = []
    slots: Whole = 1
    start_time: float = 0.0
    celery_version: str = ""
    loopwatch_version: str = ""
    release: str = ""


Rows = dict[str, list[tuple[list[str], Whole | float | list[Whole | float]]]]
"""A table as `loopwatch.telemetry.wire.encode_table` writes it."""


class Snapshot(Event, tag=EVENT_TYPE):
    """A node's own numbers; `loopwatch.telemetry.wire.NodeSnapshot` says what the fields mean."""

    kind = EVENT_TYPE
    version: Whole
    boot: Id
    seq: Whole
    interval: float
    info: SnapshotInfo
    counters: Rows
    gauges: dict[str, Rows]
    stopping: bool = False


class ConflictReport(Event, tag=CONFLICT_TYPE):
    """A loop conflict, whole; `loopwatch.telemetry.conflict_reports.ConflictReport` says what the fields mean. It is in
    its node's counters already.
    """

    kind = CONFLICT_TYPE
    version: Whole
    conflict_kind: str
    resource: str
    source: str
    message: str
    task_name: str = ""
    task_id: str = ""
    queue_name: str = ""
    made_at: str = ""
    used_at: str = ""
    occurred: float = 0.0


class OtherEvent(msgspec.Struct):
    """An event of a type that the monitor has no use for (a custom one, or a newer Celery's)."""

    kind: ClassVar[str] = "other"


AnyEvent: TypeAlias = (
    TaskSent
    | TaskReceived
    | TaskStarted
    | TaskSucceeded
    | TaskFailed
    | TaskRetried
    | TaskRevoked
    | TaskRejected
    | WorkerOnline
    | WorkerHeartbeat
    | WorkerOffline
    | Snapshot
    | ConflictReport
)
KINDS = (*(event.kind for event in get_args(AnyEvent)), OtherEvent.kind)
"""The kinds of events that are told apart."""
