"""What was seen to end other exporters, or might: events and envelopes that are not what Celery sends, each with the
reason under which it is counted."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from loopwatch.telemetry.conflict_reports import ConflictReport
from loopwatch.telemetry.wire import CONFLICT_TYPE, EVENT_TYPE, NodeInfo, NodeSnapshot

RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "celery-events.json").read_text())
GENUINE: dict[str, Any] = RECORDED["__multi__"]["envelope"]
BODY = base64.b64decode(GENUINE["body"])
PROPERTIES: dict[str, Any] = GENUINE["properties"]

GOOD = {"type": "task-started", "hostname": "w@h", "timestamp": 1.5, "uuid": "1", "clock": 1, "pid": 2, "utcoffset": 0}


def _without(field: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != field}


POISON = {
    "no uuid": (json.dumps(_without("uuid")), "field"),
    "no hostname": (json.dumps(_without("hostname")), "field"),
    "no timestamp": (json.dumps(_without("timestamp")), "field"),
    "no type": (json.dumps(_without("type")), "type"),
    "empty type": (json.dumps(GOOD | {"type": ""}), "type"),
    "type is a number": (json.dumps(GOOD | {"type": 5}), "type"),
    "42": ("42", "shape"),
    "null": ("null", "shape"),
    "a string": ('"task-started"', "shape"),
    "a list in a list": ("[[]]", "shape"),
    "a string for a number": (json.dumps(GOOD | {"timestamp": "1.5"}), "field"),
    "a number for a string": (json.dumps(GOOD | {"uuid": 42}), "field"),
    "an object for a string": (json.dumps(GOOD | {"hostname": {}}), "field"),
    "empty hostname": (json.dumps(GOOD | {"hostname": ""}), "field"),
    "a uuid of 5 MB": (json.dumps(GOOD | {"uuid": "u" * 5_000_000}), "field"),
    "NaN": (json.dumps(GOOD | {"timestamp": float("nan")}), "field"),
    "a number that no float holds": (json.dumps(GOOD).replace("1.5", "1e999"), "field"),
    "an integer of 5,000 digits": (json.dumps(GOOD).replace("1.5", "9" * 5_000), "field"),
    "an integer beyond 64 bits": (json.dumps(GOOD | {"type": "worker-heartbeat", "active": 10**30}), "field"),
    "half a surrogate for a number": (json.dumps(GOOD | {"timestamp": "\ud800"}), "field"),
    "half a surrogate in an object": (
        json.dumps(GOOD | {"type": "task-sent", "eta": {"\ud800": 1}, "queue": 1}),
        "field",
    ),
    "half a surrogate for a key": (json.dumps(GOOD | {"\ud800": 1}), "field"),
    "nested without end": (json.dumps(GOOD).replace("1.5", "[" * 50_000 + "]" * 50_000), "json"),
    "no value": (json.dumps(GOOD).replace("1.5", ""), "json"),
    "a snapshot without its fields": (json.dumps(GOOD | {"type": EVENT_TYPE}), "field"),
    "a conflict without its fields": (json.dumps(GOOD | {"type": CONFLICT_TYPE}), "field"),
    "a conflict with a number for its message": (
        json.dumps(GOOD | {"type": CONFLICT_TYPE} | ConflictReport("k", "r", "s", "m").to_fields() | {"message": 7}),
        "field",
    ),
    "a snapshot with a string for a count": (
        json.dumps(
            NodeSnapshot("b", 1, 5.0, NodeInfo(), {}, {}).to_fields()
            | {"type": EVENT_TYPE, "hostname": "w@h", "timestamp": 1.0, "counters": {"loops": [[[], "7"]]}}
        ),
        "field",
    ),
}

POISONED_ENVELOPES: dict[str, tuple[object, str]] = {
    "empty": (b"", "envelope"),
    "not JSON": (b"not json", "envelope"),
    "not UTF-8": (b"\xff\xfe", "envelope"),
    "cut off": (json.dumps(GENUINE).encode()[:-1], "envelope"),
    "nested without end": (b"[" * 100_000, "envelope"),
    "a number": (42, "envelope"),
    "a list": ([GENUINE], "envelope"),
    "an empty object": ({}, "envelope"),
    "no body": ({key: value for key, value in GENUINE.items() if key != "body"}, "envelope"),
    "body 42": (GENUINE | {"body": 42}, "envelope"),
    "body null": (GENUINE | {"body": None}, "envelope"),
    "bad base64": (GENUINE | {"body": "A"}, "envelope"),
    "base64 that is not ASCII": (GENUINE | {"body": "é"}, "envelope"),
    "an encoding that nobody has": (GENUINE | {"properties": PROPERTIES | {"body_encoding": "rot13"}}, "envelope"),
    "an encoding that is a number": (GENUINE | {"properties": PROPERTIES | {"body_encoding": 64}}, "envelope"),
    "compressed": (GENUINE | {"headers": {"compression": "application/x-gzip"}}, "envelope"),
    "an integer of 5,000 digits": (b'{"body": ' + b"9" * 5_000 + b"}", "envelope"),
    "pickle": (GENUINE | {"content-type": "application/x-python-serialize"}, "content_type"),
    "no content type": ({key: value for key, value in GENUINE.items() if key != "content-type"}, "content_type"),
    "a content type that is a list": (GENUINE | {"content-type": []}, "content_type"),
}
