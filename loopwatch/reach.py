"""Finds the asyncio transports beneath a value: so a `PerLoop` of any client knows its sockets without being told.

The garbage collector knows what an object refers to; from the value on it is asked, without running anybody's code.
Only transports of the value's own loop count, and what leads away from the value (modules, classes, loops, loggers) is
not followed. It is asked where nothing else helps: in a forked child, and for a loop that was closed with its clients
open. On that loop no transport can be used any more, and in the child none may be.
"""

from __future__ import annotations

import gc
import logging
from asyncio import AbstractEventLoop, BaseTransport
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import Context, ContextVar
from types import CoroutineType, FrameType, FunctionType, ModuleType
from typing import Any, TypeGuard

from loopwatch.sockets import TransportSocket, transport_socket

__all__ = ["sockets_of"]

MAX_OBJECTS = 100_000
"""Objects that are looked at beneath one value: about 50 ms."""

_AWAY = (
    *(ModuleType, type, FrameType, AbstractEventLoop, Context, ContextVar),
    *(logging.Logger, logging.LoggerAdapter, logging.Handler),
    *(str, bytes, int, float, bool, type(None)),
)


def sockets_of(value: object, loop: AbstractEventLoop) -> Iterator[TransportSocket]:
    """The sockets of the transports on ``loop`` that ``value`` (a client, or a coroutine that makes one) refers to."""
    seen = {id(value)}
    queue: deque[Any] = deque([value])
    while queue and len(seen) < MAX_OBJECTS:
        found = queue.popleft()
        if _is_transport_on(loop, found) and (handle := transport_socket(found)) is not None:
            yield handle
        for one in _referents(found):
            # By its type: `isinstance` asks a proxy for its ``__class__``, which is somebody's code.
            if id(one) not in seen and not issubclass(type(one), _AWAY):
                seen.add(id(one))
                queue.append(one)


def _is_transport_on(loop: AbstractEventLoop, found: Any) -> TypeGuard[BaseTransport]:
    if issubclass(type(found), BaseTransport):
        return getattr(found, "_loop", None) is loop
    # uvloop's are no subclasses, and show their loop to the collector only.
    return type(found).__module__ == "uvloop.loop" and (
        hasattr(found, "get_extra_info") and any(one is loop for one in gc.get_referents(found))
    )


def _referents(found: object) -> Iterable[object]:
    if isinstance(found, FunctionType):
        return found.__closure__ or ()  # not its globals
    if isinstance(found, CoroutineType):
        frame = found.cr_frame
        return () if frame is None else (*frame.f_locals.values(), found.cr_await)
    return gc.get_referents(found)
