"""Catalogue, rules, dashboards and documents name the same metrics, with the labels that these have; none is unused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from tests.unit.dashboards.promql import labels_made, labels_named, selectors

ROOT = Path(__file__).resolve().parents[3]
DASHBOARDS = ROOT / "dashboards"
RUNBOOK = DASHBOARDS / "runbook.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), RUNBOOK])

TARGET_LABELS = {"job", "instance", "pod"}
"""Labels that the scraper adds."""

ANY_LABEL = {label for metric in catalogue.METRICS for label in metric.labels}
"""An alert has the labels of what it is about."""

FOREIGN = {
    "up": set[str](),
    "scrape_duration_seconds": set[str](),
    "scrape_samples_scraped": set[str](),
    "process_resident_memory_bytes": set[str](),
    "process_cpu_seconds_total": set[str](),
    "process_start_time_seconds": set[str](),
    "ALERTS": {"alertname", "alertstate", "severity", *ANY_LABEL},
    "ALERTS_FOR_STATE": {"alertname", "severity", *ANY_LABEL},
}
"""Metrics that are not ours: Prometheus' own and prometheus_client's, and their labels beside the scraper's."""

UNSHOWN = {
    "celery_task_received_total": "a task is received when it is prefetched; panels count what was started",
}
"""Metrics of the catalogue that no panel and no rule asks for, and why."""

NOT_METRICS = {
    "celery_app": "the name that Celery gives an application",
    "loopwatch_check": "a pytest marker",
}
"""Words of the documents that only look like a metric."""


def _rules() -> Iterator[dict[str, Any]]:
    for path in (DASHBOARDS / "prometheus" / "rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def _values(key: str, inside: Any) -> Iterator[str]:
    """Every text that stands at ``key``, however deep."""
    if isinstance(inside, dict):
        yield from (value for name, value in inside.items() if name == key and isinstance(value, str))
    for inner in inside.values() if isinstance(inside, dict) else inside if isinstance(inside, list) else ():
        yield from _values(key, inner)


def _of_variable(query: str) -> str:
    """The selector that a variable's values are asked from."""
    match = re.fullmatch(r"label_values\((.*),\s*(\w+)\)", query)
    assert match, query
    return f"sum by ({match[2]}) ({match[1]})"


def _of_templates(annotation: str) -> Iterator[str]:
    """The queries of an annotation's template: ``{{ "..." | query }}`` and ``printf "..." ... | query``."""
    for written in re.findall(r'"((?:[^"\\]|\\.)*)"[^"{}]*\|\s*query', annotation):
        yield json.loads(f'"{written}"').replace("%q", '""')


def _expressions() -> Iterator[tuple[str, str]]:
    """Where, and the expression."""
    for path in (DASHBOARDS / "grafana").glob("*.json"):
        board = json.loads(path.read_text())
        for expression in _values("expr", board):
            yield path.name, expression
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield path.name, _of_variable(variable["query"])
    for rule in _rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
        for annotation in rule.get("annotations", {}).values():
            for expression in _of_templates(annotation):
                yield f"{rule['alert']}'s annotation", expression
    for block in re.findall(r"```promql\n(.*?)```", RUNBOOK.read_text(), re.DOTALL):
        yield RUNBOOK.name, block


def _metrics(expression: str) -> set[str]:
    return {selector.name for selector in selectors(expression)}


EXPRESSIONS = sorted(set(_expressions()))
EXPOSED = {sample: metric for metric in catalogue.METRICS for sample in metric.sample_names()}
RECORDED = {rule["record"]: rule["expr"] for rule in _rules() if "record" in rule}

PLACES = sorted({where for where, _ in EXPRESSIONS})


@cache
def _labels_of(name: str) -> frozenset[str]:
    """The labels that a metric may have; a recorded one, those of what it is recorded from, at most."""
    if name in EXPOSED:
        bucket = {"le"} if name.endswith("_bucket") else set[str]()
        return frozenset({*EXPOSED[name].labels, *bucket, *TARGET_LABELS})
    if name in RECORDED:
        return frozenset[str]().union(*map(_labels_of, _metrics(RECORDED[name])))
    return frozenset({*FOREIGN[name], *TARGET_LABELS})


def _unknown(expression: str) -> list[str]:
    """The metrics that do not exist, and the labels that theirs do not have."""
    metrics = _metrics(expression)
    unknown = sorted(metrics - set(EXPOSED) - set(RECORDED) - set(FOREIGN))
    if unknown:
        return unknown
    foreign = [
        f"{selector.name}{{{label}}}"
        for selector in selectors(expression)
        for label, _, _ in selector.matchers
        if label not in _labels_of(selector.name)
    ]
    existing = labels_made(expression).union(TARGET_LABELS, *map(_labels_of, metrics))
    return [*foreign, *sorted(labels_named(expression) - existing)]


@pytest.mark.parametrize("place", PLACES)
def test_what_an_expression_names_exists(place: str) -> None:
    unknown = {expression: _unknown(expression) for where, expression in EXPRESSIONS if where == place}
    assert {expression: names for expression, names in unknown.items() if names} == {}


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ("sum(loopwatch_no_such_total)", ["loopwatch_no_such_total"]),
        ("queue:no_such:rate5m", ["queue:no_such:rate5m"]),
        ('loopwatch_loops{queue_name="x"}', ["loopwatch_loops{queue_name}"]),
        ("sum by (queue_name) (loopwatch_loops)", ["queue_name"]),
        ('up{hostname="x"}', ["up{hostname}"]),
        ('loopwatch_pool_wait_seconds_count{le="1"}', ["loopwatch_pool_wait_seconds_count{le}"]),
        ("loopwatch_pool_wait_seconds", ["loopwatch_pool_wait_seconds"]),
    ],
)
def test_the_check_finds_what_does_not_exist(expression: str, unknown: list[str]) -> None:
    assert _unknown(expression) == unknown


def test_what_is_asked_for_is_found_everywhere() -> None:
    places = set(PLACES)
    assert places >= {path.name for path in (DASHBOARDS / "grafana").glob("*.json") if _has_queries(path)}
    assert places >= {rule.get("record") or rule["alert"] for rule in _rules()}
    template = '{{ with printf "max by (queue_name) (x{a=%q})" $labels.a | query }}{{ end }}{{ query "y" }}'
    assert list(_of_templates(template)) == ['max by (queue_name) (x{a=""})']


def _has_queries(path: Path) -> bool:
    return '"expr"' in path.read_text()


@cache
def _metrics_behind(name: str) -> frozenset[str]:
    """The families that a name stands for; those that a recorded one is made from."""
    if name in RECORDED:
        return frozenset[str]().union(*map(_metrics_behind, _metrics(RECORDED[name])))
    return frozenset({EXPOSED[name].name}) if name in EXPOSED else frozenset()


@cache
def _shown() -> frozenset[str]:
    """The families that a panel or an alert asks for; a recording that nobody reads shows nothing."""
    read = [expression for where, expression in EXPRESSIONS if where not in RECORDED]
    return frozenset(metric for expression in read for name in _metrics(expression) for metric in _metrics_behind(name))


@pytest.mark.parametrize("metric", catalogue.METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_shown_or_says_why_not(metric: Metric) -> None:
    assert (metric.name in UNSHOWN) != (metric.name in _shown()), UNSHOWN.get(metric.name, "no panel and no rule")


def test_every_recording_is_read() -> None:
    read = {name for _, expression in EXPRESSIONS for name in _metrics(expression)}
    assert set(RECORDED) - read == set()


def test_nothing_is_declared_that_does_not_exist() -> None:
    assert set(UNSHOWN) <= {metric.name for metric in catalogue.METRICS}
    asked = {name for _, expression in EXPRESSIONS for name in _metrics(expression)}
    assert set(FOREIGN) - asked == set()
    words = {word for path in DOCUMENTS for word in _words(path)}
    assert set(NOT_METRICS) - words == set()


def _words(path: Path) -> set[str]:
    return set(re.findall(r"\b(?:loopwatch|celery)_[a-z0-9_]+", path.read_text()))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_metrics_of_a_document_exist(path: Path) -> None:
    families = {metric.name for metric in catalogue.METRICS}
    known = families | ANY_LABEL | set(EXPOSED) | set(NOT_METRICS)
    # "loopwatch_monitor_*" names all that begin so.
    wildcards = {word for word in _words(path) if word.endswith("_") and any(name.startswith(word) for name in known)}
    assert _words(path) - known - wildcards == set()
