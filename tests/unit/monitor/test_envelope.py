"""What kombu's Redis transport publishes: read when it is genuine, counted by reason when it is not."""

from __future__ import annotations

import base64
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwatch_monitor.intake.decode import REASONS
from loopwatch_monitor.intake.envelope import unwrap
from tests.unit.monitor.poison import BODY, GENUINE, POISONED_ENVELOPES, PROPERTIES, RECORDED


def read(envelope: object) -> tuple[bytes | None, dict[str, int]]:
    malformed: Counter[str] = Counter()
    data = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    return unwrap(data, malformed), dict(malformed)


@pytest.mark.parametrize("name", ["__single__", "__multi__"])
def test_recorded_envelopes_are_read(name: str) -> None:
    envelope = RECORDED[name]["envelope"]
    assert read(envelope) == (base64.b64decode(envelope["body"]), {})


ODD_BUT_GOOD: dict[str, object] = {
    "in another order": dict(reversed(GENUINE.items())),
    "without spaces": json.dumps(GENUINE, separators=(",", ":")).encode(),
    "with line breaks": json.dumps(GENUINE, indent=1).encode(),
    "with more than we know": GENUINE | {"more": [1, {"body": "A"}]},
    "without headers": {key: value for key, value in GENUINE.items() if key != "headers"},
    "headers that are none": GENUINE | {"headers": None},
    "a header that looks like our fields": GENUINE | {"headers": {"body": "x", "content-type": "y"}},
    "a body that is not encoded": GENUINE | {"body": BODY.decode(), "properties": PROPERTIES | {"body_encoding": None}},
    "a body that is text": GENUINE | {"body": BODY.decode(), "properties": PROPERTIES | {"body_encoding": "utf-8"}},
    "line breaks in base64": GENUINE | {"body": base64.encodebytes(BODY).decode()},
    "bytes that are not UTF-8": json.dumps(GENUINE).encode().replace(b"rec@vm", b"rec\xff"),
    "a lone surrogate": json.dumps(GENUINE).encode().replace(b"rec@vm", rb"\ud800"),
}


@pytest.mark.parametrize("envelope", ODD_BUT_GOOD.values(), ids=ODD_BUT_GOOD.keys())
def test_odd_envelopes_are_read(envelope: object) -> None:
    assert read(envelope) == (BODY, {})


@pytest.mark.parametrize(("envelope", "reason"), POISONED_ENVELOPES.values(), ids=POISONED_ENVELOPES.keys())
def test_poison_is_counted_by_reason(envelope: object, reason: str) -> None:
    assert read(envelope) == (None, {reason: 1})
    assert reason in REASONS


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    body, malformed = read(data)
    assert (body is None) == bool(malformed)


@given(st.dictionaries(st.sampled_from([*GENUINE, "other"]), ANYTHING))
def test_no_fields_make_it_raise(changes: dict[str, object]) -> None:
    body, malformed = read(GENUINE | changes)
    assert (body is None) == bool(malformed)
    assert malformed.keys() <= set(REASONS)


@given(st.integers(0, len(json.dumps(GENUINE)) - 1), st.integers(0, 255))
def test_no_broken_byte_makes_it_raise(place: int, byte: int) -> None:
    data = bytearray(json.dumps(GENUINE).encode())
    data[place] = byte
    body, malformed = read(bytes(data))
    assert (body is None) == bool(malformed)
