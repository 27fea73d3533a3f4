"""Who called: the user's frames of a stack, for messages that say where a connection was taken, an engine was made or
a conflict arose."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from traceback import FrameSummary, StackSummary
from types import FrameType, TracebackType

from loopwatch.redact import redact

__all__ = ["Stack", "caller", "calling_stack", "stack_of", "users_part"]

LIMIT = 20
"""Frames that a stack keeps, from the innermost."""
_LIBRARIES = (
    *("loopwatch", "sqlalchemy", "sqlmodel", "asyncio", "contextlib", "uvloop"),
    *("redis", "httpx", "httpx2", "httpcore", "httpcore2", "anyio"),
)
"""Packages that stand between the user's code and the pool: their frames say nothing about whose call it was."""
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python3[.\d]*t?[/\\]|^<frozen ")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as it is quick to take: (file, line, function), the innermost first."""

    frames: tuple[tuple[str, int, str], ...]

    @property
    def innermost(self) -> str:
        """``file:line``; empty when there is no frame."""
        return "".join(f"{file}:{line}" for file, line, _ in self.frames[:1])

    def text(self) -> str:
        """As Python prints a traceback, without the credentials of a URL; the source is read now."""
        summary = StackSummary.from_list([FrameSummary(*frame) for frame in reversed(self.frames)])
        return redact("".join(summary.format()).rstrip())


def calling_stack(limit: int = LIMIT) -> Stack:
    """Where we are, without the frames of the libraries between; at most ``limit`` frames."""
    frames = (frame for frame in _frames(sys._getframe(1)) if not _is_between(frame))
    return Stack(tuple((f.f_code.co_filename, f.f_lineno, f.f_code.co_name) for f in islice(frames, limit)))


def stack_of(traceback: TracebackType | None, limit: int = LIMIT) -> Stack:
    """A traceback's innermost frames, those of the libraries left out."""
    frames = []
    while traceback is not None:
        if not _is_between(traceback.tb_frame):
            code = traceback.tb_frame.f_code
            frames.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return Stack(tuple(frames[::-1][:limit]))


def users_part(stack: Stack) -> Stack:
    """The frames of code that is not installed; none at all when the application itself is."""
    return Stack(tuple(frame for frame in stack.frames if not _INSTALLED.search(frame[0])))


def caller() -> str:
    """The user's innermost frame, as ``file:line``; empty when there is none."""
    return calling_stack(limit=1).innermost


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LIBRARIES


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    # SQLAlchemy runs its synchronous part in a greenlet: its stack ends where the greenlet began, and the coroutine
    # that waits for it is on the parent's. greenlet is there when SQLAlchemy has it.
    greenlets = sys.modules.get("greenlet")
    current = greenlets.getcurrent() if greenlets is not None else None
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        current = current.parent if current is not None else None
        if current is None:
            return
        frame = current.gr_frame
