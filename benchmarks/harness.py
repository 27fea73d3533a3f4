"""Compares ways to do one thing in one run: rounds are interleaved, so a noisy machine disturbs all ways alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

__all__ = ["Comparison", "Target", "compare", "summarise"]

ROUNDS = 7


@dataclass(frozen=True)
class Target:
    """What was claimed, and what came out.

    Attributes:
        what: the claim in words.
        measured, limit: in ``unit`` (``us``, ``x``, ``bytes`` or none); reached is what stays at or below the limit.
    """

    what: str
    measured: float
    limit: float
    unit: str

    @property
    def reached(self) -> bool:
        return self.measured <= self.limit


@dataclass(frozen=True)
class Comparison:
    """Some ways to do one thing; the first is the baseline. There may be none, and targets alone.

    Attributes:
        title: what is done.
        medians: seconds a call by way.
        ratios: by way, the median over the rounds of its time to the baseline's in the same round.
        targets: what was claimed of it.
        lost: by way, how many events it lost; empty where that is not the question.
    """

    title: str
    medians: Mapping[str, float]
    ratios: Mapping[str, float]
    targets: tuple[Target, ...] = ()
    lost: Mapping[str, int] = field(default_factory=dict)


def compare(title: str, ways: Mapping[str, Callable[[], object]], *, calls: int, rounds: int = ROUNDS) -> Comparison:
    """Calls each way ``calls`` times a round, ``rounds`` rounds after one to warm up.

    A way that returns a float is believed to have timed itself: seconds a call.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        # Forwards and backwards in turn: whoever comes after a slow one must not always be the same.
        for name, way in list(ways.items())[:: 1 if number % 2 else -1]:
            seconds = _time(way, calls)
            if number:
                taken[name].append(seconds)
    return summarise(title, taken)


def summarise(title: str, taken: Mapping[str, list[float]]) -> Comparison:
    """The medians of what each way took, round by round."""
    baseline = next(iter(taken.values()))
    return Comparison(
        title,
        {name: statistics.median(seconds) for name, seconds in taken.items()},
        {
            name: statistics.median(mine / base for mine, base in zip(seconds, baseline, strict=True))
            for name, seconds in taken.items()
        },
    )


def _time(way: Callable[[], object], calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        result = way()
    elapsed = (perf_counter() - start) / calls
    return result if isinstance(result, float) else elapsed
