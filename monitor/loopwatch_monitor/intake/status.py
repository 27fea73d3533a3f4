"""What an intake tells of itself: its connection to the broker, and whether it keeps up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["BrokerStatus", "BrokerUnreachableError"]


class BrokerUnreachableError(Exception):
    """The broker could not be reached; the message holds no credentials."""


@dataclass(slots=True)
class BrokerStatus:
    """Written by the intake's thread alone, read by anyone.

    Attributes:
        up: whether there is a connection.
        lost: connections that were lost since the start.
        buffered: bytes that were read from the broker and are not decoded yet.
        buffer_limit: the most that may wait so, in bytes; 0 = the intake has no buffer of its own.
        flooded: whether events come faster than they can be decoded, by far: others should leave the interpreter to the
            intake, for a broker loses what is not read.
    """

    up: bool = False
    lost: int = 0
    buffered: int = 0
    buffer_limit: int = 0
    flooded: bool = False
    _clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    _was_down: float = field(default=0.0, init=False)
    _down_since: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._down_since = self._clock()

    @property
    def behind(self) -> bool:
        """Whether half of the buffer is full: at its end something will be dropped."""
        return self.buffer_limit > 0 and 2 * self.buffered >= self.buffer_limit

    def connected(self) -> None:
        """There is a connection from now on."""
        if not self.up:
            # In this order, a reader never sees the same outage twice; it may miss it for an instant.
            self.up = True
            self._was_down += self._clock() - self._down_since

    def disconnected(self) -> None:
        """There is none from now on."""
        if self.up:
            self._down_since = self._clock()
            self.up = False
            self.lost += 1

    def seconds_down(self) -> float:
        """Seconds without a connection since the start, of which nobody knows what was sent in them."""
        was_down, since = self._was_down, self._down_since
        return was_down if self.up else was_down + max(self._clock() - since, 0.0)
