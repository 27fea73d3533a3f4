"""Bytes from the event stream to typed events; a bad event is counted by reason and never costs a good neighbour.

A message holds one event (an object) or several (`task.multi`, a list: prefork workers batch up to 24). The fast path
decodes a whole message into structs of the few fields that the monitor uses. When that fails, the message is taken
apart and each event is judged by itself, with a parser that forgives what strict JSON forbids and Python writes
(NaN, lone surrogates, bytes that are not UTF-8).

What an event carries: Celery's `celery/events/` and the worker's and amqp's `send_event` calls, 5.x.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Annotated, Any, ClassVar, TypeAlias, get_args

import msgspec

from loopwatch.telemetry.wire import CONFLICT_TYPE, EVENT_TYPE

__all__ = [
    "KINDS",
    "REASONS",
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
    "accepts",
    "decode",
]

REASONS = ("content_type", "envelope", "json", "shape", "type", "field", "snapshot", "error")
"""Why an event was not read: a serializer other than JSON; a message that its transport could not unwrap; not JSON;
neither an object nor a list; no usable ``type``; a field missing or of a wrong type; a snapshot's row that is not what
its family says; an error of ours while folding it."""

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
_READ = frozenset(KINDS) - {OtherEvent.kind}
_one = msgspec.json.Decoder(AnyEvent)
_many = msgspec.json.Decoder(list[AnyEvent])
_OTHER = OtherEvent()
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},]', re.DOTALL)
"""A string, or what holds items and parts them. A string without an end goes to the text's end, for good: looking for
its end anew from each quote in it would take for ever."""


def accepts(content_type: str | None) -> bool:
    """Whether bodies of this content type are read. Only JSON: reading a pickle would execute what it says."""
    return content_type == "application/json"


def decode(body: bytes, malformed: Counter[str]) -> list[AnyEvent | OtherEvent]:
    """The events of one message, in order; what could not be read is counted in ``malformed`` by reason."""
    try:
        if body.lstrip()[:1] == b"[":
            return _many.decode(body)  # type: ignore[return-value]  # list is invariant
        return [_one.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _salvage(body, malformed)


def _salvage(body: bytes, malformed: Counter[str]) -> list[AnyEvent | OtherEvent]:
    text = body.decode("utf-8", "replace")
    try:
        content = _parse(text)
    except (ValueError, RecursionError):
        found = [*map(_judge_text, _split(text))] or ["json"]
    else:
        found = [*map(_judge, content if isinstance(content, list) else [content])]
    malformed.update(reason for reason in found if isinstance(reason, str))
    return [event for event in found if not isinstance(event, str)]


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_nothing, parse_float=_number, parse_int=_number)


def _split(text: str) -> list[str]:
    """The items of a list that is no JSON as a whole: one of them is nested too deeply, or is none itself."""
    if not text.lstrip().startswith("["):
        return []
    items, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in ("[", "{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in ("]", "}"):
            depth -= 1
        if (mark == "," and depth == 1) or (mark == "]" and depth == 0):
            items.append(text[start : token.start()])
            start = token.end()
    return items if depth == 0 else [*items, text[start:]]


def _judge_text(text: str) -> AnyEvent | OtherEvent | str:
    try:
        return _judge(_parse(text))
    except (ValueError, RecursionError):
        return "json"


def _judge(item: object) -> AnyEvent | OtherEvent | str:
    """The event, or the reason why it is none."""
    if not isinstance(item, dict):
        return "shape"
    kind = item.get("type")
    if not isinstance(kind, str) or not kind:
        return "type"
    if kind not in _READ:
        return _OTHER
    try:
        event: AnyEvent = msgspec.convert(item, AnyEvent)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError):  # half a surrogate where no text belongs
        return "field"
    return event


def _nothing(_: str) -> None:
    """NaN and the infinities: no field of ours may hold one, and None fails its field alone."""


def _number(text: str) -> float | None:
    # A number that no field of ours can hold must fail its own event, not the parse of the whole message (Python
    # refuses to read integers of more than 4,300 digits).
    if len(text) > 400:
        return None
    value = float(text)
    if value in (float("inf"), float("-inf")):
        return None
    return int(text) if text.lstrip("-").isdigit() else value
