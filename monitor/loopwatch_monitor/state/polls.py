"""How the questions that are asked in the background fare: the age of the last answer, and the failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from loopwatch_monitor.state.ledger import Now

__all__ = ["POLLS", "QUEUES", "WORKERS", "Polls"]

QUEUES: Final = "queues"
WORKERS: Final = "workers"
POLLS: Final = (QUEUES, WORKERS)


class Polls:
    """All polls, by name. Before the first clock reading (`tick`) an age is 0."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter(dict.fromkeys(POLLS, 0))
        self._answered: dict[str, float] = {}

    def tick(self, now: Now) -> None:
        """Lets time pass."""
        for poll in POLLS:
            self._answered.setdefault(poll, now.monotonic)

    def answered(self, poll: str, now: Now) -> None:
        """There was an answer."""
        self._answered[poll] = now.monotonic

    def failed(self, poll: str) -> None:
        """There was none."""
        self.failures[poll] += 1

    def ages(self, now: Now) -> Iterator[tuple[str, float]]:
        """Seconds since the last answer, or since the start while there is none."""
        return ((poll, max(now.monotonic - self._answered.get(poll, now.monotonic), 0.0)) for poll in POLLS)
