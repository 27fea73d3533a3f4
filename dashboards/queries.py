"""PromQL made from the catalogue's metrics, so that a query cannot name a metric or label that does not exist.

Each selects the variables ``job`` and ``instance``. What several monitors of one broker all say is counted once; what a
monitor says about itself is not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dashboards.pace import Pace
from dashboards.recording import Recordings
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric

__all__ = [
    "FROM_ELSEWHERE",
    "ONE_OF_ITS_QUEUES",
    "RATE_INTERVAL",
    "RECORDED",
    "Query",
    "at_most_all",
    "bucket_increase",
    "firing",
    "gained",
    "gauge",
    "increase",
    "of_monitors",
    "quantile",
    "rate",
    "ratio",
    "recorded",
    "seen",
    "share",
]

RATE_INTERVAL = "$__rate_interval"
"""Grafana's window for rates: never shorter than four scrapes."""

_RECORDINGS = Recordings(Pace(1))
RECORDED = {name: _RECORDINGS[name].labels for name, _ in _RECORDINGS}
"""The recorded metrics and their labels. Alerts ask the same series, so that a panel shows what an alert fires at."""

FROM_ELSEWHERE = (
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "ALERTS",
    "ALERTS_FOR_STATE",
)
"""What Prometheus itself and prometheus_client say about a target and its alerts."""


ONE_OF_ITS_QUEUES = "(.+,)?($queue)(,.+)?"
"""For the ``queue_name`` of a worker as a whole, which is all of its queues: ``content,logs``."""


@dataclass(frozen=True)
class Query:
    """A PromQL expression and how its series are called (Grafana fills in ``{{label}}``)."""

    expression: str
    legend: str


def gauge(metric: Metric, **filters: str) -> str:
    """A gauge now; ``filters`` are label names and regular expressions.

    >>> gauge(catalogue.LOOPS, hostname="$worker")
    'max without (instance, pod) (loopwatch_loops{job=~"$job",instance=~"$instance",hostname=~"$worker"})'
    """
    return _once(metric, _selector(metric, "", filters))


def seen(metric: Metric, **filters: str) -> str:
    """A gauge, of monitors that are connected to their broker: to one that is cut off everybody is silent or lost, and
    each queue as long as it was."""
    connected = f"{_selector(catalogue.MONITOR_BROKER_UP, '', {})} == 1"
    return _once(metric, f"{_selector(metric, '', filters)} and on (job, instance) {connected}")


def rate(metric: Metric, *, suffix: str = "", window: str = RATE_INTERVAL, **filters: str) -> str:
    """A counter's growth a second.

    >>> rate(catalogue.MONITOR_RECONNECTS)
    'rate(loopwatch_monitor_reconnects_total{job=~"$job",instance=~"$instance"}[$__rate_interval])'
    """
    return _once(metric, f"rate({_selector(metric, suffix, filters)}[{window}])")


def increase(metric: Metric, *, suffix: str = "", window: str = RATE_INTERVAL, **filters: str) -> str:
    """A counter's growth over the window."""
    return _once(metric, f"increase({_selector(metric, suffix, filters)}[{window}])")


def gained(metric: Metric, *, window: str, **filters: str) -> str:
    """A counter's growth over the window, where a series that is new in it counts whole: of one that is born at 1, and
    that may be all there ever is, `increase` is 0. For tables; a graph's windows are too short to tell what is new."""
    total = recorded(f"worker:{metric.name.removesuffix('_total')}:max", **filters)
    # A day, so that a pause of the monitor at the window's beginning does not make everything new.
    new = f"{total} unless max_over_time({total}[1d] offset {window})"
    return f"({new}) or {increase(metric, window=window, **filters)}"


def quantile(part: float, metric: Metric, *by: str, **filters: str) -> str:
    """A quantile of a histogram, by these labels."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({part}, sum by ({labels}) ({rate(metric, suffix='_bucket', **filters)}))"


def bucket_increase(metric: Metric, **filters: str) -> str:
    """A histogram's observations by bucket, for a heat map."""
    return f"sum by (le) ({increase(metric, suffix='_bucket', **filters)})"


def recorded(name: str, **filters: str) -> str:
    """A series of a recording rule. It has no ``instance``: what several monitors say is already one.

    >>> recorded("queue:celery_queue_drain:seconds", queue_name="$queue")
    'queue:celery_queue_drain:seconds{job=~"$job",queue_name=~"$queue"}'

    Raises:
        ValueError: no recording rule has this name, or its series have no such label.
    """
    if name not in RECORDED:
        raise ValueError(f"no recording rule is called {name}")
    _refuse_unknown_labels(name, filters, RECORDED[name])
    return f"{name}{_matchers({'job': '$job', **filters})}"


def ratio(one: str, other: str, *by: str) -> str:
    """How many of the one to each of the other, by these labels; nothing where the other is 0, rather than NaN.

    >>> ratio("conflicts", "finished", "queue_name")
    'sum by (queue_name) (conflicts) / (sum by (queue_name) (finished) > 0)'
    """
    labels = ", ".join(by)
    return f"sum by ({labels}) ({one}) / (sum by ({labels}) ({other}) > 0)"


def share(part: str, whole: str, *by: str) -> str:
    """What part of the whole, by these labels; nothing where the whole is 0.

    >>> share("failed", "tried", "queue_name")
    'clamp_max(sum by (queue_name) (failed) / (sum by (queue_name) (tried) > 0), 1)'
    """
    return at_most_all(ratio(part, whole, *by))


def at_most_all(share: str) -> str:
    """A share, at most 1: what is tried in one window may fail in the next, and each series is born when it is."""
    return f"clamp_max({share}, 1)"


def firing(name: str = "ALERTS", **matchers: str) -> str:
    """Our alerts that fire. One that something is absent has no ``job``: an empty one is ours, too."""
    ours = {"alertname": "Loopwatch.+", "job": "$job|", **matchers}
    return f"{name}{_matchers(ours | ({'alertstate': 'firing'} if name == 'ALERTS' else {}))}"


def of_monitors(name: str, *, window: str = "") -> str:
    """What Prometheus or prometheus_client says about the monitors, not about all that Prometheus scrapes."""
    if name not in FROM_ELSEWHERE:
        raise ValueError(f"{name} is not among FROM_ELSEWHERE")
    series = f"{name}{_matchers({'job': '$job', 'instance': '$instance'})}"
    series = f"rate({series}[{window}])" if window else series
    # A monitor that is down exposes nothing; it is one as long as it was one within the last hour.
    known = f"last_over_time({_selector(catalogue.MONITOR_BUILD_INFO, '', {})}[1h])"
    return f"({series} and on (job, instance) {known})"


def _once(metric: Metric, expression: str) -> str:
    return expression if metric.origin == "monitor" else f"max without (instance, pod) ({expression})"


def _selector(metric: Metric, suffix: str, filters: dict[str, str]) -> str:
    _refuse_unknown_labels(metric.name, filters, (*metric.labels, *(("le",) if suffix == "_bucket" else ())))
    if f"{metric.name}{suffix}" not in metric.sample_names():
        raise ValueError(f"{metric.name} has no samples {metric.name}{suffix}")
    return f"{metric.name}{suffix}{_matchers({'job': '$job', 'instance': '$instance', **filters})}"


def _refuse_unknown_labels(name: str, filters: dict[str, str], labels: Collection[str]) -> None:
    unknown = set(filters) - set(labels)
    if unknown:
        raise ValueError(f"{name} has no label {', '.join(sorted(unknown))}")


def _matchers(regular_expressions: dict[str, str]) -> str:
    return "{" + ",".join(f'{label}=~"{value}"' for label, value in regular_expressions.items()) + "}"
