"""The whole first conflict of each kind: what it holds, how often, its bounds, and its way to the publisher."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwatch.conflicts import classify, count_once
from loopwatch.errors import LoopConflictError
from loopwatch.redact import redact
from loopwatch.telemetry import catalogue, conflict_reports, wire
from loopwatch.telemetry.channel import Channel, Writer
from loopwatch.telemetry.conflict_reports import REPORTS, ConflictReport, decode_report
from loopwatch.telemetry.reporter import Reporter
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from loopwatch.telemetry.wire import NodeInfo

# Python 3.12 warns of what is tested here.
forks_with_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
ADL = "Task <Task> got Future <Future pending> attached to a different loop"


@pytest.fixture(autouse=True)
def _a_task() -> Iterator[None]:
    STATS.reset()
    REPORTS.reset()
    REPORTS.open()
    token = current_task.set(TaskContext("logs", "app.store", "id-7"))
    yield
    current_task.reset(token)
    REPORTS.reset()
    STATS.reset()


def _conflict(message: str = ADL) -> RuntimeError:
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


def _dropped(reason: str) -> float:
    return STATS.value(catalogue.TELEMETRY_DROPPED, (reason,))


def test_what_a_report_holds() -> None:
    count_once(_conflict(), source="exception")
    (report,) = REPORTS.pending
    assert (report.conflict_kind, report.resource, report.source) == ("cross_loop", "unknown", "exception")
    assert (report.task_name, report.task_id, report.queue_name) == ("app.store", "id-7", "logs")
    assert report.message == ADL
    assert report.used_at.startswith(f'  File "{__file__}", line ')
    assert "in _conflict\n    raise RuntimeError(message)" in report.used_at
    assert report.occurred > 0


def test_a_guards_report_says_where_the_resource_was_made_and_where_we_are() -> None:
    error = LoopConflictError("refused", resource="redis", kind="closed_loop")
    error.made_at = "app/db.py:7, pg://me:secret@db"  # type: ignore[attr-defined, unused-ignore]
    count_once(error, source="guard")
    (report,) = REPORTS.pending
    assert report.made_at == "app/db.py:7, pg://***@db"
    assert "test_a_guards_report_says_where" in report.used_at
    assert "site-packages" not in report.used_at


def test_a_wrapped_conflict_was_used_where_the_users_code_is() -> None:
    inner = RuntimeError("Event loop is closed")
    try:
        raise ConnectionError("no answer") from inner  # the library caught the inner one itself
    except ConnectionError as error:
        count_once(error, source="exception")
    (report,) = REPORTS.pending
    assert report.conflict_kind == "closed_loop"
    assert 'raise ConnectionError("no answer") from inner' in report.used_at


def test_the_first_of_each_kind_and_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("loopwatch.telemetry.conflict_reports.time.monotonic", lambda: now)
    for _ in range(3):
        count_once(_conflict(), source="exception")
    assert len(REPORTS.pending) == 1
    count_once(_conflict("Event loop is closed"), source="exception")  # another kind
    assert len(REPORTS.pending) == 2
    current_task.set(TaskContext("logs", "app.other", "id-8"))
    count_once(_conflict(), source="exception")  # another task
    assert len(REPORTS.pending) == 3
    now += conflict_reports.EVERY - 1
    count_once(_conflict(), source="exception")
    assert len(REPORTS.pending) == 3
    now += 1
    count_once(_conflict(), source="exception")
    assert len(REPORTS.pending) == 4


def test_one_that_was_counted_is_not_reported_again() -> None:
    error = _conflict()
    error._loopwatch_counted = True  # type: ignore[attr-defined]
    count_once(error, source="exception")
    assert not REPORTS.pending


def test_where_nobody_sends_nothing_is_reported() -> None:
    REPORTS.reset()
    count_once(_conflict(), source="exception")
    assert not REPORTS.pending
    assert REPORTS._sent == {}


def test_what_waits_and_what_is_remembered_has_a_bound() -> None:
    for number in range(conflict_reports.MAX_KINDS + 5):
        current_task.set(TaskContext("logs", f"app.task_{number}", "id"))
        count_once(_conflict(), source="exception")
    assert len(REPORTS.pending) == conflict_reports.MAX_PENDING
    assert len(REPORTS._sent) == conflict_reports.MAX_KINDS
    assert _dropped("report_limit") == conflict_reports.MAX_KINDS + 5 - conflict_reports.MAX_PENDING


def test_texts_are_cut_and_fit_a_datagram() -> None:
    current_task.set(TaskContext("\U0001f4a9" * 9_999, "\x00" * 9_999, "\x00" * 9_999))
    error = LoopConflictError("\x00" * 200_000, resource="redis", kind="cross_loop")
    error.made_at = "\x00" * 200_000  # type: ignore[attr-defined, unused-ignore]
    count_once(error, source="guard")
    (report,) = REPORTS.pending
    assert len(report.made_at) == conflict_reports.MAX_TEXT
    assert len(report.encode()) <= 2 * wire.MAX_DATAGRAM  # what the parent receives at most


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql+asyncpg://user:pa/ss@w0rd@db:5432/x?y=1", "postgresql+asyncpg://***@db:5432/x?y=1"),
        ("Error at redis://:secret@localhost:6379/0, really", "Error at redis://***@localhost:6379/0, really"),
        ("two: a://b:c@d and e://f:g@h", "two: a://***@d and e://***@h"),
        ("url='amqp://guest:guest@mq//'", "url='amqp://***@mq//'"),
        ("http://localhost:8080/path and me@example.org", "http://localhost:8080/path and me@example.org"),
        ("no url", "no url"),
    ],
)
def test_credentials_are_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_a_message_that_is_cut_keeps_no_half_of_a_password() -> None:
    conflict = classify(f"{'x' * 270} pg://me:{'secret' * 60}@db {ADL}")
    assert conflict is not None
    assert "secret" not in conflict.message


reports = st.builds(
    ConflictReport,
    *[st.text()] * 9,
    occurred=st.floats(allow_nan=False, allow_infinity=False),
)


@given(reports)
def test_the_round_trip(report: ConflictReport) -> None:
    assert decode_report(report.encode()) == report


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[1]",
        b"{",
        json.dumps({"version": 99, "message": "m"}).encode(),
        json.dumps({"version": wire.VERSION, "message": "m"}).encode(),
        json.dumps(ConflictReport("k", "r", "s", "m").to_fields() | {"message": 7}).encode(),
        json.dumps(ConflictReport("k", "r", "s", "m").to_fields() | {"occurred": "now"}).encode(),
    ],
)
def test_malformed_reports(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"loopwatch report|JSON|Expecting"):
        decode_report(data)


def test_fields_of_a_newer_version_are_skipped() -> None:
    report = ConflictReport("k", "r", "s", "m")
    assert decode_report(json.dumps(report.to_fields() | {"new": [1]}).encode()) == report


# ---------------------------------------------------------------- the way
@forks_with_threads
def test_from_a_child_to_its_parents_publisher() -> None:
    channel = Channel()
    count_once(_conflict("Event loop is closed"), source="exception")
    for _ in range(2):  # two children have the same conflict
        pid = os.fork()
        if not pid:
            code = 1
            try:
                writer = channel.writer(slot=0)
                assert not REPORTS.pending  # the parent's are the parent's
                writer.start()
                count_once(_conflict(), source="exception")
                writer.finish()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    counters, _ = channel.tables()
    channel.close()
    assert list(counters[catalogue.LOOP_CONFLICTS.wire_name].values()) == [2]
    assert [report.conflict_kind for report in REPORTS.pending] == ["closed_loop", "cross_loop"]
    report = REPORTS.pending[1]
    assert report.task_name == "app.store"
    assert "in _conflict" in report.used_at


def test_a_malformed_report_is_counted() -> None:
    channel = Channel()
    channel._take(b"{}")
    channel.close()
    assert _dropped("malformed") == 1


def test_a_channel_without_room_loses_no_report() -> None:
    reader, sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reader, sock:
        writer = Writer(sock, 0)
        try:
            while True:
                sock.send(b"x" * 4_000, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        count_once(_conflict(), source="exception")
        assert not writer.send()
        assert len(REPORTS.pending) == 1
        assert _dropped("channel_full") == 1
        while reader.recv(9_999) != b"x" * 4_000:
            pass
        try:
            while True:
                reader.recv(9_999, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        assert writer.send()
        reader.recv(2 * wire.MAX_DATAGRAM)  # the snapshot
        assert decode_report(reader.recv(2 * wire.MAX_DATAGRAM)).task_id == "id-7"
    assert not REPORTS.pending


class _Broker:
    """A publisher that fails as long as it is told to."""

    def __init__(self) -> None:
        self.down = False
        self.events: list[tuple[str, dict[str, Any]]] = []

    def publish(self, type: str, fields: dict[str, Any]) -> None:
        if self.down and type == wire.CONFLICT_TYPE:
            raise OSError("down")
        self.events.append((type, fields))

    def close(self) -> None:
        """Nothing is open."""


def test_the_reporter_publishes_after_its_snapshot_and_again_when_that_failed() -> None:
    broker = _Broker()
    reporter = Reporter(broker, interval=5.0, info=NodeInfo)
    count_once(_conflict(), source="exception")
    broker.down = True
    reporter._publish()
    assert [kind for kind, _ in broker.events] == [wire.EVENT_TYPE]
    assert _dropped("broker") == 1
    broker.down = False
    reporter._publish()
    reporter._publish()
    assert [kind for kind, _ in broker.events][1:] == [wire.EVENT_TYPE, wire.CONFLICT_TYPE, wire.EVENT_TYPE]
    fields = broker.events[2][1]
    assert fields["task_name"] == "app.store"
    assert not {"pid", "hostname", "timestamp", "type", "clock", "utcoffset"} & set(fields)  # Celery's own
    json.dumps(fields)
