"""PromQL made from the catalogue's metrics, so that a query cannot name a metric or label that does not exist.

Each selects the variables ``job`` and ``instance``, and counts once what several monitors of one broker all say.
"""

from __future__ import annotations

from dataclasses import dataclass

from loopwatch.telemetry.catalogue import Metric

__all__ = ["Query", "bucket_increase", "gauge", "increase", "quantile", "rate"]

RATE_INTERVAL = "$__rate_interval"
"""Grafana's window for rates: never shorter than four scrapes."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression and how its series are called (Grafana fills in ``{{label}}``)."""

    expression: str
    legend: str


def gauge(metric: Metric, **filters: str) -> str:
    """A gauge now; ``filters`` are label names and regular expressions."""
    return _once(_selector(metric, "", filters))


def rate(metric: Metric, *, suffix: str = "", window: str = RATE_INTERVAL, **filters: str) -> str:
    """A counter's growth a second."""
    return _once(f"rate({_selector(metric, suffix, filters)}[{window}])")


def increase(metric: Metric, *, suffix: str = "", window: str = RATE_INTERVAL, **filters: str) -> str:
    """A counter's growth over the window."""
    return _once(f"increase({_selector(metric, suffix, filters)}[{window}])")


def quantile(share: float, metric: Metric, *by: str, **filters: str) -> str:
    """A quantile of a histogram, by these labels."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(metric, suffix='_bucket', **filters)}))"


def bucket_increase(metric: Metric, **filters: str) -> str:
    """A histogram's observations by bucket, for a heat map."""
    return f"sum by (le) ({increase(metric, suffix='_bucket', **filters)})"


def _once(expression: str) -> str:
    return f"max without (instance, pod) ({expression})"


def _selector(metric: Metric, suffix: str, filters: dict[str, str]) -> str:
    unknown = set(filters) - set(metric.labels)
    if unknown:
        raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}")
    if f"{metric.name}{suffix}" not in metric.sample_names():
        raise ValueError(f"{metric.name} has no samples {metric.name}{suffix}")
    matchers = {"job": "$job", "instance": "$instance", **filters}
    inner = ",".join(f'{label}=~"{value}"' for label, value in matchers.items())
    return f"{metric.name}{suffix}{{{inner}}}"
