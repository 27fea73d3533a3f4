"""Bytes to events: genuine recorded ones are read, and no poison costs a good event of the same message."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwatch.telemetry.conflict_reports import ConflictReport
from loopwatch.telemetry.wire import CONFLICT_TYPE, EVENT_TYPE, NodeInfo, NodeSnapshot
from loopwatch_monitor.intake import events
from loopwatch_monitor.intake.decode import REASONS, accepts, decode
from tests.unit.monitor.poison import GOOD, POISON

RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "celery-events.json").read_text())


@pytest.mark.parametrize(("body", "reason"), POISON.values(), ids=POISON.keys())
def test_poison_alone_is_counted_by_reason(body: str, reason: str) -> None:
    malformed: Counter[str] = Counter()
    alone = decode(body.encode(), malformed) if not body.startswith("[") else decode(f"[{body}]".encode(), malformed)
    assert alone == []
    assert malformed == {reason: 1}
    assert reason in REASONS


@pytest.mark.parametrize(("body", "reason"), POISON.values(), ids=POISON.keys())
def test_poison_between_two_good_events_costs_neither(body: str, reason: str) -> None:
    malformed: Counter[str] = Counter()
    good = json.dumps(GOOD)
    read = decode(f"[{good},{body},{good}]".encode(), malformed)
    assert [event.kind for event in read] == ["task-started", "task-started"]
    assert malformed == {reason: 1}


@pytest.mark.parametrize("body", [b"", b"   ", b"{", b"[", b"\x80\x04\x95pickle", b"[" * 100_000, b"not json"])
def test_what_is_not_json_is_counted(body: bytes) -> None:
    malformed: Counter[str] = Counter()
    assert decode(body, malformed) == []
    assert malformed == {"json": 1}


def test_of_a_message_that_is_cut_off_the_whole_events_are_read() -> None:
    malformed: Counter[str] = Counter()
    body = json.dumps([GOOD | {"uuid": '",]}[{\\'}, GOOD, GOOD])[:-9].encode()
    assert [event.uuid for event in decode(body, malformed)] == ['",]}[{\\', "1"]  # type: ignore[union-attr]
    assert malformed == {"json": 1}


@pytest.mark.parametrize("number", ["9" * 25, "9" * 309, "9" * 5_000])
def test_no_number_comes_in_that_prometheus_cannot_read(number: str) -> None:
    """It takes one for infinite, and refuses the whole page."""
    body = json.dumps(GOOD | {"type": "worker-heartbeat", "active": "it"}).replace('"it"', number)
    assert all(event.active is None for event in decode(body.encode(), Counter()))  # type: ignore[union-attr]


ODD_BUT_GOOD = {
    "a lone surrogate": rb'"name": "\ud800"',
    "bytes that are not UTF-8": b'"name": "\xff"',
    "quotes, newlines, U+2028": '"name": "a\\"b\\nc\u2028d"'.encode(),
    "NaN where we do not look": b'"loadavg": [NaN, 1, Infinity]',
    "an exception of 5 MB": b'"exception": "' + b"x" * 5_000_000 + b'"',
}


@pytest.mark.parametrize("field", ODD_BUT_GOOD.values(), ids=ODD_BUT_GOOD.keys())
def test_odd_events_are_read(field: bytes) -> None:
    malformed: Counter[str] = Counter()
    head = b'{"type": "task-received", "uuid": "1", "hostname": "w@h", "timestamp": 1, '
    assert [event.kind for event in decode(head + field + b"}", malformed)] == ["task-received"]
    assert not malformed


def test_types_that_we_have_no_use_for_are_no_error() -> None:
    malformed: Counter[str] = Counter()
    body = json.dumps([GOOD, {"type": "task-progress", "percent": 3}]).encode()
    assert [event.kind for event in decode(body, malformed)] == ["task-started", "other"]
    assert not malformed


@pytest.mark.parametrize("name", [name for name in RECORDED if not name.startswith("__")])
def test_recorded_events_are_read(name: str) -> None:
    malformed: Counter[str] = Counter()
    (event,) = decode(json.dumps(RECORDED[name]["event"]).encode(), malformed)
    assert event.kind == name
    assert not malformed


@pytest.mark.parametrize("name", ["__single__", "__multi__"])
def test_recorded_bodies_are_read(name: str) -> None:
    malformed: Counter[str] = Counter()
    envelope = RECORDED[name]["envelope"]
    assert accepts(envelope["content-type"])
    assert decode(base64.b64decode(envelope["body"]), malformed)
    assert not malformed


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/data", "", None])
def test_only_json_is_accepted(content_type: str | None) -> None:
    assert not accepts(content_type)


def test_a_snapshot_as_the_library_writes_it_is_read() -> None:
    info = NodeInfo(pool_type="prefork", queues=["logs"], slots=2, release="r1")
    snapshot = NodeSnapshot(
        boot="b",
        seq=3,
        interval=5.0,
        info=info,
        counters={
            "pool_wait_seconds": {("logs", "main"): [1] + [0] * 13 + [0.5]},
            "engines_created_total": {("m",): 1},
        },
        gauges={0: {"loops": {(): 1}}},
        stopping=True,
    )
    body = {"type": EVENT_TYPE, "hostname": "logs@h", "timestamp": 1.0, "pid": 1} | snapshot.to_fields()
    malformed: Counter[str] = Counter()
    (event,) = decode(json.dumps(body).encode(), malformed)
    assert isinstance(event, events.Snapshot)
    assert (event.boot, event.seq, event.interval, event.stopping) == ("b", 3, 5.0, True)
    assert event.info.queues == ["logs"]
    assert event.counters["pool_wait_seconds"] == [(["logs", "main"], [1] + [0] * 13 + [0.5])]
    assert event.gauges == {"0": {"loops": [([], 1)]}}


def test_a_conflict_as_the_library_writes_it_is_read() -> None:
    report = ConflictReport("cross_loop", "redis", "guard", "m", "app.store", "7", "logs", "a.py:1", "b.py:2", 3.5)
    body = {"type": CONFLICT_TYPE, "hostname": "logs@h", "timestamp": 1.0, "pid": 1, "new": {}} | report.to_fields()
    malformed: Counter[str] = Counter()
    (event,) = decode(json.dumps(body).encode(), malformed)
    assert isinstance(event, events.ConflictReport)
    assert event.kind == CONFLICT_TYPE
    assert {name: getattr(event, name) for name in report.to_fields()} == report.to_fields()
    assert not malformed


@given(st.lists(st.one_of(st.just(None), st.sampled_from(sorted(POISON))), max_size=8))
def test_good_events_survive_any_neighbours(kinds: list[str | None]) -> None:
    bodies = [json.dumps(GOOD) if kind is None else POISON[kind][0] for kind in kinds if kind != "a uuid of 5 MB"]
    malformed: Counter[str] = Counter()
    read = decode(f"[{','.join(bodies)}]".encode(), malformed)
    assert len(read) == bodies.count(json.dumps(GOOD))
    assert len(read) + sum(malformed.values()) == len(bodies)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    decode(body, Counter())
    decode(b"[" + json.dumps(GOOD).encode() + b"," + body, Counter())
