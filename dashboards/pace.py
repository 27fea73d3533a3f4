"""How fast time passes for the rules: a test wants to see in seconds what takes a fleet minutes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pace"]

UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@dataclass(frozen=True)
class Pace:
    """Durations, each divided by ``factor``."""

    factor: float = 1

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"the pace must be above 0, not {self.factor}")

    def seconds(self, seconds: float) -> float:
        """A duration in seconds."""
        return seconds / self.factor

    def __call__(self, seconds: float) -> str:
        """A duration as Prometheus writes it, a millisecond at least.

        >>> Pace()(300), Pace(20)(300), Pace(20)(15)
        ('5m', '15s', '750ms')
        """
        rest = max(round(self.seconds(seconds) * 1000), 1)
        text = ""
        for unit, size in UNITS.items():
            number, rest = divmod(rest, size)
            text += f"{number}{unit}" if number else ""
        return text
