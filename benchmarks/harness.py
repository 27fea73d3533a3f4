"""Compares ways to do one thing in one run: rounds are interleaved, so a noisy machine disturbs all ways alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

__all__ = ["Comparison", "compare"]

ROUNDS = 7


@dataclass(frozen=True)
class Comparison:
    """The medians of some ways to do one thing, in seconds a call, by name; the first is the baseline."""

    title: str
    medians: Mapping[str, float]

    @property
    def baseline(self) -> float:
        return next(iter(self.medians.values()))


def compare(title: str, ways: Mapping[str, Callable[[], object]], *, calls: int, rounds: int = ROUNDS) -> Comparison:
    """Calls each way ``calls`` times a round, ``rounds`` rounds after one to warm up.

    A way that returns a number is believed to have timed itself: seconds a call.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = _time(way, calls)
            if number:
                taken[name].append(seconds)
    return Comparison(title, {name: statistics.median(seconds) for name, seconds in taken.items()})


def _time(way: Callable[[], object], calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        result = way()
    elapsed = (perf_counter() - start) / calls
    return result if isinstance(result, float) else elapsed
