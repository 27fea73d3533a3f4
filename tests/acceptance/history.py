"""What an alert did, from Prometheus' own series ``ALERTS``."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["runs"]


def runs(times: Iterable[float], *, step: float) -> list[tuple[float, float]]:
    """The stretches without a gap, first and last time each.

    >>> runs([1, 2, 3, 7, 8], step=1)
    [(1, 3), (7, 8)]
    """
    found: list[tuple[float, float]] = []
    for time in times:
        if found and time - found[-1][1] <= step * 1.5:
            found[-1] = (found[-1][0], time)
        else:
            found.append((time, time))
    return found
