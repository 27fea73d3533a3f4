"""Stacks in logs and messages quote source lines, which may hold a URL with its password."""

from __future__ import annotations

import asyncio
import threading

from loopwatch.loop_lag import LoopLag
from loopwatch.stacks import Stack, calling_stack
from loopwatch.stalls import _told


def _connect(_: str) -> Stack:
    return calling_stack(limit=2)


def test_a_stack_shows_no_credentials() -> None:
    text = _connect("postgresql://app:secret@db/app").text()
    assert '_connect("postgresql://***@db/app")' in text
    assert "secret" not in text


def _blocking(loop: asyncio.AbstractEventLoop, _: str) -> str:
    watched = LoopLag(loop, "a loop")
    watched.thread = threading.get_ident()
    return _told(watched)


def test_the_stack_of_a_stall_shows_no_credentials() -> None:
    loop = asyncio.new_event_loop()
    text = _blocking(loop, "redis://:secret@cache/0")
    loop.close()
    assert '_blocking(loop, "redis://***@cache/0")' in text
    assert "secret" not in text
