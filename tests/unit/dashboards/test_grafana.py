"""The committed dashboards: generated from the code, and as the conventions ask."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dashboards import loop_conflicts
from dashboards.__main__ import DASHBOARDS, DIRECTORY, main, render
from dashboards.queries import gauge, rate
from loopwatch.telemetry import catalogue

PANELS_WITHOUT_QUERY = {"row", "text"}
NAMES_FROM_ELSEWHERE = {"up", "ALERTS"}


def _committed() -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}


def _panels() -> Iterator[Any]:
    for name, dashboard in _committed().items():
        for panel in dashboard["panels"]:
            if panel["type"] not in PANELS_WITHOUT_QUERY:
                yield pytest.param(panel, id=f"{name}: {panel['title']}")


def _expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


every_dashboard = pytest.mark.parametrize("name", sorted(DASHBOARDS))
every_panel = pytest.mark.parametrize("panel", list(_panels()))


def test_no_dashboard_is_missing_or_left_over() -> None:
    assert set(_committed()) == set(DASHBOARDS)


@every_dashboard
def test_the_committed_json_is_what_the_code_makes(name: str) -> None:
    assert (DIRECTORY / name).read_text() == render(name), "run `make dashboards` and commit the result"


def test_the_generator_writes_all(tmp_path: Any) -> None:
    main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(DASHBOARDS)


@every_dashboard
def test_the_frame(name: str) -> None:
    dashboard = _committed()[name]
    assert dashboard["editable"] is False
    assert dashboard["uid"].startswith("loopwatch-")
    assert dashboard["title"]
    assert dashboard["description"]
    assert {link["type"] for link in dashboard["links"]} == {"dashboards", "link"}
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert numbers == list(range(1, len(numbers) + 1))


@every_dashboard
def test_the_variables(name: str) -> None:
    variables = {variable["name"]: variable for variable in _committed()[name]["templating"]["list"]}
    datasource = variables.pop("datasource")
    assert (datasource["type"], datasource["label"], datasource["query"]) == ("datasource", "Data source", "prometheus")
    assert variables["job"]["allValue"] == variables["instance"]["allValue"] == ".+"
    assert list(variables)[:2] == ["job", "instance"]
    for variable in variables.values():
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["refresh"] == 2, "on time range change"
        assert variable["datasource"]["uid"] == "${datasource}"
        assert _unknown_metrics(variable["query"]) == set()


@every_panel
def test_the_panel_is_described(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"


@every_panel
def test_the_targets(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert all(references)
    assert len(set(references)) == len(references)
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert len(panel["targets"]) == 1 or all(target["legendFormat"] for target in panel["targets"])


@every_panel
def test_the_queries(panel: dict[str, Any]) -> None:
    for expression in _expressions(panel):
        assert _unknown_metrics(expression) == set()
        assert _selectors_without_target(expression) == []
        assert _counters_aggregated_before_rate(expression) == []
        for function, window in re.findall(r"(rate|increase)\([^][]*\[([^]]+)]", expression):
            recent = function == "increase" and window == f"{loop_conflicts.RECENT_SECONDS}s"
            assert window in ("$__rate_interval", "$__range") or recent, expression


def _unknown_metrics(expression: str) -> set[str]:
    named = set(re.findall(r"\b(?:loopwatch|celery)_\w+", expression))
    return named - set(catalogue.exposed_names()) - NAMES_FROM_ELSEWHERE


def _selectors_without_target(expression: str) -> list[str]:
    selectors = re.findall(r"\b(?:loopwatch|celery)_\w+(?:\{[^}]*\})?", expression)
    return [found for found in selectors if 'job=~"$job"' not in found or 'instance=~"$instance"' not in found]


def _counters_aggregated_before_rate(expression: str) -> list[str]:
    """Counters that are read without a rate or an increase around them at once."""
    counters = re.findall(r"(\w+\()(loopwatch_\w+(?:_total|_bucket|_sum|_count))\b", expression)
    every = re.findall(r"loopwatch_\w+(?:_total|_bucket|_sum|_count)\b", expression)
    rated = [name for call, name in counters if call in ("rate(", "increase(")]
    return sorted(set(every) - set(rated))


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (_unknown_metrics, 'sum(loopwatch_no_such_total{job=~"$job"})'),
        (_selectors_without_target, "sum(rate(loopwatch_loop_conflicts_total[5m]))"),
        (_selectors_without_target, 'sum(loopwatch_loops{job=~"$job"})'),
        (_counters_aggregated_before_rate, "rate(sum(loopwatch_loop_conflicts_total)[5m:])"),
    ],
)
def test_the_checks_find_what_is_wrong(check: Any, bad: str) -> None:
    assert check(bad)


def test_queries_cannot_name_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="no label queue_name"):
        gauge(catalogue.LOOPS, queue_name="x")
    with pytest.raises(ValueError, match="no samples"):
        rate(catalogue.POOL_WAIT)
