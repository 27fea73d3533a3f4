"""What an intake hands on at once: events, and what it had to leave out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from loopwatch_monitor.intake.decode import accepts, decode
from loopwatch_monitor.intake.events import AnyEvent, OtherEvent

__all__ = ["LOST_REASONS", "Batch", "Sink"]

LOST_REASONS = ("buffer_full", "disconnected")
"""Why events are known to be lost: there was no room for them, or their message was cut off with its connection."""


@dataclass(slots=True)
class Batch:
    """Some messages, read: their events in order.

    Attributes:
        events: what could be read.
        malformed: what could not be read, by reason (`loopwatch_monitor.intake.decode.REASONS`).
        lost: what is known to be lost, by reason (`LOST_REASONS`).
    """

    events: list[AnyEvent | OtherEvent] = field(default_factory=list)
    malformed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, body: bytes, content_type: str | None) -> None:
        """Reads a message's body; never raises."""
        if accepts(content_type):
            self.events += decode(body, self.malformed)
        else:
            self.malformed["content_type"] += 1


class Sink(Protocol):
    """Takes in batches; must not raise."""

    def __call__(self, batch: Batch, wait: float = -1) -> bool:
        """Takes in a batch, or says ``False`` after about ``wait`` seconds (-1: never): try again."""
