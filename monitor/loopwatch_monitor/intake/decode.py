"""Bytes from the event stream to typed events; a bad event is counted by reason and never costs a good neighbour.

A message holds one event (an object) or several (`task.multi`, a list: prefork workers batch up to 24). The fast path
decodes a whole message into structs of the few fields that the monitor uses. When that fails, the message is taken
apart and each event is judged by itself, with a parser that forgives what strict JSON forbids and Python writes
(NaN, lone surrogates, bytes that are not UTF-8).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import msgspec

from loopwatch_monitor.intake.events import KINDS, AnyEvent, OtherEvent

__all__ = ["REASONS", "accepts", "decode"]

REASONS = ("content_type", "envelope", "json", "shape", "type", "field", "snapshot", "error")
"""Why an event was not read: a serializer other than JSON; a message that its transport could not unwrap; not JSON;
neither an object nor a list; no usable ``type``; a field missing or of a wrong type; a snapshot's row that is not what
its family says; an error of ours while folding it."""

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
