"""The fold over whole streams: how they are batched makes no difference, and nothing in them makes it raise."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loopwatch.telemetry.wire import EVENT_TYPE
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.decode import REASONS, decode
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.ledger import Now

KINDS = (
    *("task-sent", "task-received", "task-started", "task-succeeded", "task-failed", "task-retried", "task-revoked"),
    *("task-rejected", "worker-online", "worker-heartbeat", "worker-offline", "task-custom", EVENT_TYPE),
)
GOOD = st.fixed_dictionaries(
    {
        "type": st.sampled_from(KINDS[:-1]),
        "hostname": st.sampled_from(["a@h", "b@h", "x" * 300]),
        "timestamp": st.floats(0, 2e9),
        "uuid": st.sampled_from(["1", "2", "3"]),
    },
    optional={
        "name": st.sampled_from(["t", "u", "n" * 300]),
        "queue": st.sampled_from(["q", "r"]),
        "runtime": st.floats(-1, 1e6),
        "exception": st.sampled_from(["KeyError('x')", "None", "<E: x>", "RuntimeError('Event loop is closed')"]),
        "requeue": st.booleans(),
        "active": st.integers(-5, 5),
    },
)
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=300), st.just([]), st.just({})),
    st.sampled_from([10**400, "\ud800", 'a"b\\c\n\u2028']),
)
ANY = st.dictionaries(
    st.sampled_from(
        [
            *("type", "hostname", "timestamp", "uuid", "name", "queue", "runtime", "exception", "traceback", "requeue"),
            *("active", "boot", "seq", "interval", "info", "counters", "gauges", "version", "stopping"),
        ]
    ),
    st.one_of(VALUES, st.sampled_from(KINDS)),
)


def page(batches: list[Batch]) -> list[str]:
    """All series but the process's own, after these batches and the end of all patience."""
    now = [Now(0.0, 1e9)]
    hub = Hub(Settings(broker_url="memory://"), status=BrokerStatus(up=True), version="1", clock=lambda: now[0])
    for batch in batches:
        hub.receive(batch)
    now[0] = Now(20.0, 1e9 + 20)
    hub.tick()
    return [line for line in hub.page().decode().splitlines() if line.startswith(("celery_", "loopwatch_"))]


@settings(max_examples=50, deadline=None)
@given(st.lists(GOOD, max_size=30), st.data())
def test_how_events_are_batched_makes_no_difference(stream: list[dict[str, Any]], data: st.DataObject) -> None:
    together, single, mixed = Batch(), [], []
    together.add(json.dumps(stream).encode(), "application/json")
    for event in stream:
        single.append(Batch())
        single[-1].add(json.dumps(event).encode(), "application/json")
    left = list(stream)
    while left:
        size = data.draw(st.integers(1, len(left)))
        mixed.append(Batch())
        mixed[-1].add(json.dumps(left[:size]).encode(), "application/json")
        left = left[size:]
    assert page([together]) == page(single) == page(mixed)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(ANY, GOOD), max_size=20))
def test_no_event_makes_it_raise_and_all_are_accounted_for(stream: list[dict[str, Any]]) -> None:
    malformed: Counter[str] = Counter()
    events = decode(json.dumps(stream).encode(), malformed)
    assert malformed.keys() <= set(REASONS)
    assert len(events) + malformed.total() == len(stream)
    lines = page([Batch(events, malformed)])
    assert not [line for line in lines if 'reason="error"' in line and not line.endswith(" 0")]
