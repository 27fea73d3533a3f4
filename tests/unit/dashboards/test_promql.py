"""What the reader of PromQL finds in an expression, and what it does not take for a name."""

from __future__ import annotations

import pytest

from tests.unit.dashboards.promql import labels_made, labels_named, selectors


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        ("sum by (a) (max without (instance, pod) (rate(x_total[5m])))", {"x_total"}),
        ("a:b:rate5m * 1e3 > bool Inf unless on (job) y", {"a:b:rate5m", "y"}),
        ('x{a="b and c"} or vector(0)', {"x"}),
        ("max_over_time(x[5m:1m]) == -.5", {"x"}),
        ("topk(20, x) / sum(y) without (slot)", {"x", "y"}),
        ('rate(x{job=~"$job"}[$__rate_interval]) / $factor / y{}', {"x", "y"}),
        ("count(time() - x < 600)", {"x"}),
    ],
)
def test_metrics(expression: str, metrics: set[str]) -> None:
    assert {selector.name for selector in selectors(expression)} == metrics


def test_labels() -> None:
    assert labels_named('sum by (a, b) (x{c="1"}) / on (f) group_left (g) y') == {"a", "b", "f", "g"}
    assert labels_made('label_replace(sum by (a) (x{b="c"}), "made", "$1", "a", "(.*)")') == {"made"}
    assert labels_made('sum by (a) (x{b="c"})') == set()
