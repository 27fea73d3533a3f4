"""What the reader of PromQL finds in an expression, and what it does not take for a name."""

from __future__ import annotations

import doctest

import pytest

from tests.unit.dashboards import promql
from tests.unit.dashboards.promql import named


def test_the_example_runs() -> None:
    assert doctest.testmod(promql).failed == 0


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ("sum by (a) (max without (instance, pod) (rate(x_total[5m])))", {"x_total"}),
        ("a:b:rate5m * 1e3 > bool Inf unless on (job) y offset -5m", {"a:b:rate5m", "y"}),
        ('x{a="b and c"} or vector(0)', {"x"}),
        ("max_over_time(x[5m:1m] @ end()) == -.5 # not_a_metric", {"x"}),
        ('{__name__="x", job="y"}', {"x"}),
        ("topk(20, x) atan2 sum(y) without (slot)", {"x", "y"}),
        ('rate(x{job=~"$job"}[$__rate_interval]) / ${factor} / x{}', {"x"}),
        ("count(time() - x < 600)", {"x"}),
    ],
)
def test_metrics(expression: str, metrics: set[str]) -> None:
    assert named(expression).metrics == metrics


def test_labels() -> None:
    names = named('sum by (a, b) (x{c="1", d!~"e"}) / on (f) group_left (g) y')
    assert names.selectors == [("x", ("c", "d")), ("y", ())]
    assert names.labels == {"a", "b", "f", "g"}


def test_labels_that_are_made() -> None:
    names = named('label_replace(sum by (a) (x{b="c"}), "made", "$1", "a", "(.*)")')
    assert names.made == {"made"}
    assert names.metrics == {"x"}
