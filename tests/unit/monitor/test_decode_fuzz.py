"""Genuine events, mutated: a field holds what it never should, or some bytes are others. Nothing is raised, no good
event of the same message is lost, every item is accounted for, and the page is one that Prometheus reads."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from loopwatch.telemetry.conflict_reports import ConflictReport
from loopwatch.telemetry.wire import CONFLICT_TYPE, EVENT_TYPE
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.decode import REASONS, decode
from loopwatch_monitor.intake.envelope import unwrap
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from tests.unit.monitor.poison import GENUINE, RECORDED

SNAPSHOT = {
    "type": EVENT_TYPE,
    "hostname": "w@h",
    "timestamp": 1e9,
    "version": 1,
    "boot": "b",
    "seq": 3,
    "interval": 5.0,
    "info": {"kind": "celery", "pool_type": "prefork", "queues": ["q"], "slots": 2, "start_time": 1.0},
    "counters": {"pool_wait_seconds": [[["q", "main"], [1] * 15]], "engines_created_total": [[["main"], 2]]},
    "gauges": {"0": {"pool_info": [[["main", "asyncpg", "db"], 1]], "pool_connections": [[["main", "used"], 3]]}},
    "stopping": False,
}
CONFLICT = {"type": CONFLICT_TYPE, "hostname": "w@h", "timestamp": 1e9} | ConflictReport("k", "r", "s", "m").to_fields()
EVENTS: list[dict[str, Any]] = [
    *(recorded["event"] for name, recorded in RECORDED.items() if not name.startswith("__")),
    SNAPSHOT,
    CONFLICT,
]
JUNK = (
    *("null", "true", "-1", "-0.0", "1e308", "-1e308", "1e999", "1e-400", "NaN", "-Infinity", "9" * 399, "9" * 5_000),
    *("9223372036854775808", "-9223372036854775809", '""', r'"\ud800"', r'"\udc00\ud800"', '"\u2028"', r'"\u0000"'),
    *(
        r'"a\"b\\c\n"',
        '"' + "n" * 70_000 + '"',
        "[]",
        "{}",
        "[[]]",
        r'{"\ud800": 1}',
        '[["a"], 1]',
        '{"a": [[[], "7"]]}',
    ),
    *("[" * 50 + "]" * 50, "[" * 5_000 + "]" * 5_000, '{"a":' * 5_000 + "1" + "}" * 5_000),
    '{"0": {"loops": [[[], 1e308], [[], 1e308]]}}',
    '{"loop_lag_seconds": [[[], [9007199254740993, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]]]}',
    r'{"queues": ["\ud800", "", "q"], "slots": -9223372036854775808}',
)
QUICK = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
GOOD = json.dumps({"type": "task-received", "hostname": "good@h", "timestamp": 1.0, "uuid": "g", "name": "good"})


def receive(hub: Hub, body: bytes) -> Batch:
    batch = Batch()
    batch.add(body, "application/json")
    assert batch.malformed.keys() <= set(REASONS)
    hub.receive(batch)
    return batch


def check(hub: Hub) -> None:
    """No event was too much for the fold, and Prometheus can read what came of it."""
    page = hub.page().decode()
    assert 'loopwatch_monitor_events_malformed_total{reason="error"} 0\n' in page
    assert [*text_string_to_metric_families(page)]
    for line in page.removesuffix("\n").split("\n"):  # a label may hold other ends of lines
        value = line.rpartition(" ")[2]
        # A number of 400 digits is none to Go.
        assert line.startswith("#") or value in ("inf", "-inf") or not math.isinf(float(value)), line


def a_hub() -> Hub:
    return Hub(Settings(broker_url="memory://"), status=BrokerStatus(), version="1")


@st.composite
def mutated_fields(draw: st.DrawFn) -> str:
    """An event as JSON that Python writes, at most: its fields are what they should not be, missing, or there twice."""
    fields = [(json.dumps(name), json.dumps(value)) for name, value in draw(st.sampled_from(EVENTS)).items()]
    for _ in range(draw(st.integers(1, 3))):
        place, junk = draw(st.integers(0, len(fields) - 1)), draw(st.sampled_from(JUNK))
        name = draw(st.sampled_from(('"type"', '"uuid"', r'"\ud800"', '""', '"new"')))
        match draw(st.sampled_from(("other", "other", "twice", "gone", "renamed", "new"))):
            case "other":
                fields[place] = fields[place][0], junk
            case "twice":
                fields.append((fields[place][0], junk))
            case "gone" if len(fields) > 1:
                del fields[place]
            case "renamed":
                fields[place] = name, fields[place][1]
            case _:
                fields.append((name, junk))
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields) + "}"


@st.composite
def mutated_bytes(draw: st.DrawFn, text: bytes) -> bytes:
    found = bytearray(text)
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, max(len(found) - 1, 0)))
        size = draw(st.sampled_from((0, 0, 1, 2, 9, 100)))
        found[place : place + size] = draw(
            st.one_of(st.binary(max_size=4), st.sampled_from(JUNK).map(lambda junk: junk.encode()))
        )
    return bytes(found)


@QUICK
@given(st.lists(mutated_fields(), min_size=1, max_size=4))
def test_fields_that_hold_anything_cost_no_good_event(texts: list[str]) -> None:
    hub = a_hub()
    batch = receive(hub, f"[{GOOD}, {', '.join(texts)}, {GOOD}]".encode())
    assert [event.kind for event in batch.events if getattr(event, "hostname", "") == "good@h"] == ["task-received"] * 2
    assert len(batch.events) + batch.malformed.total() == len(texts) + 2
    for text in texts:
        alone = receive(hub, text.encode())
        assert len(alone.events) + alone.malformed.total() == 1
    check(hub)


@QUICK
@given(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=4), st.data())
def test_any_bytes_are_read_or_counted(events: list[dict[str, Any]], data: st.DataObject) -> None:
    hub = a_hub()
    body = json.dumps(events if len(events) > 1 else events[0]).encode()
    batch = receive(hub, data.draw(mutated_bytes(body)))
    assert batch.events or batch.malformed
    check(hub)


@QUICK
@given(st.sampled_from(EVENTS), st.data())
def test_any_envelope_is_unwrapped_or_counted(event: dict[str, Any], data: st.DataObject) -> None:
    body = base64.b64encode(json.dumps(event).encode()).decode()
    malformed: Counter[str] = Counter()
    found = unwrap(data.draw(mutated_bytes(json.dumps(GENUINE | {"body": body}).encode())), malformed)
    assert malformed.total() == (found is None)
    assert malformed.keys() <= {"envelope", "content_type"}
    if found is not None:
        decode(found, malformed)
