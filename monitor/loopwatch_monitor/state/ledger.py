"""What the monitor counts about its own work, and the clock reading that is handed to every fold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Ledger", "Now"]


class Now(NamedTuple):
    """One reading of the monitor's clocks, seconds. Ages are told by ``monotonic`` (an adjusted clock must not make
    workers look dead); ``wall`` (Unix time) is only for timestamps that are shown."""

    monotonic: float
    wall: float


@dataclass(slots=True)
class Ledger:
    """Counts about the monitor's own work; every part of the state adds to the same one.

    Attributes:
        events: events folded, by type.
        malformed: events that could not be read, by reason.
        lost: events that are known to be lost, by reason.
        evictions: entries that a full table gave up, by table.
        dropped: facts that were not counted because their family was full, by family.
        snapshots, gaps, duplicates: node snapshots folded, missing, and times that two nodes had one name.
        lag: age of the newest event when it was folded, seconds, by the sender's clock.
        last_event: when it arrived, Unix time; 0 = none yet.
    """

    events: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    evictions: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    snapshots: int = 0
    gaps: int = 0
    duplicates: int = 0
    lag: float = 0.0
    last_event: float = 0.0
