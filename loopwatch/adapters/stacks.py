"""Who called: the user's frames of the stack, for messages that say where a connection was taken or an engine made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from traceback import FrameSummary, StackSummary
from types import FrameType

__all__ = ["Stack", "caller", "calling_stack"]

LIMIT = 20
"""Frames that a stack keeps, from the innermost."""
_LIBRARIES = ("loopwatch", "sqlalchemy", "sqlmodel", "asyncio", "contextlib", "uvloop")
"""Packages that stand between the user's code and the pool: their frames say nothing about whose call it was."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as it is quick to take: (file, line, function), the innermost first."""

    frames: tuple[tuple[str, int, str], ...]

    @property
    def innermost(self) -> str:
        """``file:line``; empty when there is no frame."""
        return "".join(f"{file}:{line}" for file, line, _ in self.frames[:1])

    def text(self) -> str:
        """As Python prints a traceback; the source is read now."""
        summary = StackSummary.from_list([FrameSummary(*frame) for frame in reversed(self.frames)])
        return "".join(summary.format()).rstrip()


def calling_stack(limit: int = LIMIT) -> Stack:
    """Where we are, without the frames of the libraries between; at most ``limit`` frames."""
    frames = (frame for frame in _frames(sys._getframe(1)) if not _is_between(frame))
    return Stack(tuple((f.f_code.co_filename, f.f_lineno, f.f_code.co_name) for f in islice(frames, limit)))


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
