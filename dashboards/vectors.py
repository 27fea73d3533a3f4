"""PromQL for rules: expressions that know their labels, so that none can name a metric or a label that is not there.

Binary operators in PromQL give nothing, silently, where the labels of both sides differ. Here they raise.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric

__all__ = ["TARGET", "Vector", "by_connected", "once", "series"]

TARGET = frozenset({"job", "instance"})
"""What Prometheus adds to each series."""


@dataclass(frozen=True)
class Vector:
    """An expression and the labels of its series. ``compound``: it needs parentheses inside another one."""

    text: str
    labels: frozenset[str]
    compound: bool = False

    def __str__(self) -> str:
        return f"({self.text})" if self.compound else self.text

    def call(self, function: str, window: str = "", *, offset: str = "") -> Vector:
        """A function of each series by itself; ``window``: of its past, such as ``5m``, which ends ``offset`` ago."""
        past = f"{f'[{window}]' if window else ''}{f' offset {offset}' if offset else ''}"
        return Vector(f"{function}({self.text}{past})", self.labels)

    def then(self, operation: str) -> Vector:
        """The same series after an operation with a number, such as ``> 0.9``."""
        return Vector(f"{self} {operation}", self.labels, compound=True)

    def after(self, operation: str) -> Vector:
        """The same the other way round, such as ``time() -``."""
        return Vector(f"{operation} {self}", self.labels, compound=True)

    def at_most(self, limit: float) -> Vector:
        """The same series, none above the limit."""
        return Vector(f"clamp_max({self.text}, {limit:g})", self.labels)

    def sum_without(self, *labels: str) -> Vector:
        """The sum over these labels."""
        return self._aggregated("sum", labels)

    def max_without(self, *labels: str) -> Vector:
        """The highest over these labels."""
        return self._aggregated("max", labels)

    def max_by(self, *labels: str) -> Vector:
        """The highest by these labels."""
        self._check(labels)
        return Vector(f"max by ({', '.join(labels)}) ({self.text})", frozenset(labels))

    def one_by(self, *labels: str) -> Vector:
        """One series of those that have the same of these labels, whichever."""
        self._check(labels)
        return Vector(f"topk by ({', '.join(labels)}) (1, {self.text})", self.labels)

    def quantile(self, share: float) -> Vector:
        """A quantile of a histogram's buckets."""
        self._check(["le"])
        return Vector(f"histogram_quantile({share:g}, {self.text})", self.labels - {"le"})

    def with_(self, operator: str, other: Vector, *, on: Collection[str] = (), bring: Collection[str] = ()) -> Vector:
        """The result of a binary operator.

        Args:
            operator: such as ``/`` or ``and``.
            other: its right side. With ``on``, several of ours may match one of its series.
            on: the labels that must agree; none = all, and then both sides must have the same.
            bring: labels of the other side that the result gets.

        Raises:
            ValueError: no series could ever match.
        """
        matching = ""
        if on:
            self._check(on)
            other._check([*on, *bring])
            matching = f" on ({', '.join(on)})"
            if operator not in ("and", "unless", "or"):
                matching += f" group_left ({', '.join(bring)})"
        elif self.labels != other.labels:
            raise ValueError(f"labels differ, nothing matches: {self} {operator} {other}")
        return Vector(f"{self} {operator}{matching} {other}", self.labels | frozenset(bring), compound=True)

    def _aggregated(self, how: str, labels: Collection[str]) -> Vector:
        self._check(labels)
        return Vector(f"{how} without ({', '.join(labels)}) ({self.text})", self.labels - frozenset(labels))

    def _check(self, labels: Collection[str]) -> None:
        unknown = set(labels) - self.labels
        if unknown:
            raise ValueError(f"{self.text} has no label {', '.join(sorted(unknown))}")


def series(metric: Metric, suffix: str = "", **values: str) -> Vector:
    """The series of a metric that have these label values.

    >>> from loopwatch.telemetry import catalogue
    >>> str(series(catalogue.POOL_CONNECTIONS, state="used"))
    'loopwatch_pool_connections{state="used"}'

    Raises:
        ValueError: the metric has no such label, or no samples of this name.
    """
    name = f"{metric.name}{suffix}"
    if name not in metric.sample_names():
        raise ValueError(f"{metric.name} has no samples {name}")
    labels = TARGET | frozenset(metric.labels) | ({"le"} if suffix == "_bucket" else set())
    unknown = set(values) - labels
    if unknown:
        raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}")
    matchers = ",".join(f'{label}="{value}"' for label, value in values.items())
    return Vector(f"{name}{{{matchers}}}" if matchers else name, labels)


def once(vector: Vector) -> Vector:
    """What several monitors of one broker all say, once."""
    highest = vector.max_without("instance")
    return replace(highest, text=f"max without (instance, pod) ({vector.text})")


def by_connected(metric: Metric) -> Vector:
    """What those monitors say that have a connection to their broker. To one that is cut off, everybody is silent,
    everybody lost, no task ever begun and no queue any shorter; beside another one, which knows better, its word must
    not count."""
    connected = series(catalogue.MONITOR_BROKER_UP).then("== 1")
    return once(series(metric).with_("and", connected, on=("job", "instance")))
