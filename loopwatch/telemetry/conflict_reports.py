"""The first of each kind of loop conflict, whole: what a counter cannot tell, on its way to the monitor.

A report is made where a conflict is counted, if somebody will send it (a worker or a process that reports), and only
for the first one of a resource, kind and task name in `EVERY` seconds. A pool child sends it to its parent beside its
snapshots, where the same limit holds for the whole node; the reporter's thread publishes it, right after a snapshot,
as an event of its own (`loopwatch.telemetry.wire.CONFLICT_TYPE`). What cannot be sent now stays for the next time.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, fields
from typing import Any

from loopwatch.redact import redact
from loopwatch.stacks import calling_stack, stack_of, users_part
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, current_task
from loopwatch.telemetry.wire import VERSION, from_json

__all__ = ["REPORTS", "ConflictReport", "ConflictReports", "decode_report"]

EVERY = 600.0
"""Seconds until a conflict of the same kind is sent whole again: whoever looks at the log later finds one, too."""

MAX_KINDS = 200
"""Kinds of conflicts that are remembered as sent; the one that was sent longest ago is forgotten first."""

MAX_PENDING = 20
"""Reports that wait to be sent."""

MAX_TEXT = 1500
"""Characters of a place: enough for some ten frames. Escaped as JSON a report still fits a datagram's buffer."""
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class ConflictReport:
    """One loop conflict. Texts hold no credentials and have a bound.

    ``made_at`` is where the resource was made, as far as that is known; ``used_at`` the user's frames where it was
    used; ``occurred``: Unix time in seconds. The node adds its name.
    """

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

    def to_fields(self) -> dict[str, Any]:
        """The fields of the Celery event."""
        return {"version": VERSION, **asdict(self)}

    def encode(self) -> bytes:
        """The report as a datagram: a JSON object, where a snapshot is a list."""
        return json.dumps(self.to_fields(), separators=(",", ":")).encode()


def decode_report(data: bytes) -> ConflictReport:
    """The reverse of `ConflictReport.encode`; raises `ValueError` when it is not one. Unknown fields are skipped."""
    content = from_json(data)
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError("not a loopwatch report of this version")
    known = {field.name: content[field.name] for field in fields(ConflictReport) if field.name in content}
    occurred = known.pop("occurred", 0.0)
    if isinstance(occurred, bool) or not isinstance(occurred, (int, float)):
        raise ValueError("a loopwatch report without a time")
    if not all(isinstance(value, str) for value in known.values()):
        raise ValueError("a loopwatch report with a malformed field")
    try:
        return ConflictReport(**known, occurred=occurred)
    except TypeError as error:
        raise ValueError(f"a loopwatch report that lacks a field: {error}") from error


class ConflictReports:
    """The reports of one process that wait to be sent. Thread-safe; empty, and closed, after a fork."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins anew, as in a forked child."""
        # Reentrant: the garbage collector may find a conflict while we note one.
        self._lock = threading.RLock()
        self._sent: dict[tuple[str, str, str], float] = {}
        self._open = False
        self.pending: deque[ConflictReport] = deque()

    def open(self) -> None:
        """Somebody sends reports from now on: they take the first of ``pending`` and remove it once it is sent."""
        self._open = True

    def note(self, kind: str, resource: str, source: str, message: str, *errors: BaseException) -> None:
        """Reports a conflict of the running task, unless one of its kind was just reported.

        ``errors``: the exception that holds the conflict, and the one that it came out as.
        """
        task = current_task.get()
        if not self._open or not self._admit((resource, kind, task.name), time.monotonic()):
            return
        report = ConflictReport(
            conflict_kind=kind,
            resource=resource,
            source=source,
            message=message,
            task_name=_cut(task.name, MAX_NAME),
            task_id=_cut(task.id, MAX_NAME),
            queue_name=_cut(task.queue_name, MAX_NAME),
            made_at=_place(str(getattr(errors[0], "made_at", ""))),
            used_at=_place(_used_at(*errors)),
            occurred=time.time(),
        )
        self._put(report)

    def forward(self, report: ConflictReport) -> None:
        """Takes a pool child's report, unless another child has just reported one of its kind."""
        if self._admit((report.resource, report.conflict_kind, report.task_name), time.monotonic()):
            self._put(report)

    def _admit(self, key: tuple[str, str, str], now: float) -> bool:
        with self._lock:
            if now - self._sent.get(key, float("-inf")) < EVERY:
                return False
            self._sent.pop(key, None)  # to be the last in the order of sending
            self._sent[key] = now
            if len(self._sent) > MAX_KINDS:
                del self._sent[next(iter(self._sent))]
            return True

    def _put(self, report: ConflictReport) -> None:
        with self._lock:
            if len(self.pending) >= MAX_PENDING:
                STATS.count(catalogue.TELEMETRY_DROPPED, ("report_limit",))
            else:
                self.pending.append(report)


def _used_at(*errors: BaseException) -> str:
    stacks = [stack_of(error.__traceback__) for error in errors if error.__traceback__ is not None]
    # A guard reports before it raises: what it refuses is where we are.
    stacks = stacks or [calling_stack()]
    return next((mine for mine in map(users_part, stacks) if mine.frames), stacks[-1]).text()


def _place(text: str) -> str:
    return _cut(redact(text), MAX_TEXT)


def _cut(text: str, limit: int) -> str:
    """The text's end, where a stack is innermost."""
    return text if len(text) <= limit else f"…{text[-limit + 1 :]}"


REPORTS = ConflictReports()
"""The process's reports."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=REPORTS.reset)
