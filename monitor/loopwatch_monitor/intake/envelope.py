"""What kombu's Redis transport publishes, unwrapped: a JSON object that holds a message's body in base64.

One pass of a typed decoder reads exactly the envelope that Celery writes, body included, in less time than slicing
the body out and decoding it by itself takes (0.7 against 1.6 us), and lets nothing pass that it was not told of. Any
other envelope is taken apart step by step.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Literal

import msgspec

from loopwatch_monitor.intake.decode import accepts

__all__ = ["unwrap"]


class _Headers(msgspec.Struct, gc=False):
    compression: None = None


class _Properties(msgspec.Struct, gc=False):
    body_encoding: Literal["base64"]


class _Envelope(msgspec.Struct, gc=False, rename="kebab"):
    body: bytes
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"]
    headers: _Headers
    properties: _Properties


_decode = msgspec.json.Decoder(_Envelope).decode


def unwrap(data: bytes, malformed: Counter[str]) -> bytes | None:
    """The body of a message, or ``None`` and a count in ``malformed`` where there is none that could be read."""
    try:
        return _decode(data).body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = _take_apart(data)
    if isinstance(body, bytes):
        return body
    malformed[body] += 1
    return None


def _take_apart(data: bytes) -> bytes | str:
    """The body, or the reason why there is none."""
    try:
        envelope = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return "envelope"
    if not isinstance(envelope, dict):
        return "envelope"
    body, headers = envelope.get("body"), envelope.get("headers")
    if not isinstance(body, str):
        return "envelope"
    if not accepts(envelope.get("content-type")):
        return "content_type"
    # Celery never compresses events, and what decompresses may be of any size.
    if isinstance(headers, dict) and headers.get("compression"):
        return "envelope"
    return _plain(body, envelope.get("properties"))


def _plain(body: str, properties: object) -> bytes | str:
    encoding = properties.get("body_encoding") if isinstance(properties, dict) else None
    if encoding is None or encoding == "utf-8":
        return body.encode("utf-8", "replace")
    if encoding != "base64":
        return "envelope"
    try:
        return base64.b64decode(body)
    except ValueError:
        return "envelope"
