"""What an intake tells of itself: its connection to the broker, and whether it keeps up."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BrokerStatus"]


@dataclass(slots=True)
class BrokerStatus:
    """Written by the intake's thread alone, read by anyone.

    Attributes:
        up: whether it is connected.
        lost: connections that were lost since the start.
        buffered: what was taken off the broker and waits to be folded.
        buffer_limit: where the buffer ends, in the same unit; 0 = the intake has none.
    """

    up: bool = False
    lost: int = 0
    buffered: int = 0
    buffer_limit: int = 0

    @property
    def behind(self) -> bool:
        """Whether half of the buffer is full: at its end something will be dropped."""
        return self.buffer_limit > 0 and 2 * self.buffered >= self.buffer_limit
