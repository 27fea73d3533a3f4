"""The rules of grafana/dashboard-linter, each as what is wrong with a dashboard's JSON: nothing, where it is held.

Our exceptions: a recorded metric has no ``instance`` (several monitors say one thing), and an alert that something is
absent has no ``job``, so that ``ALERTS`` are asked for ours or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from loopwatch.telemetry import catalogue
from tests.unit.dashboards.promql import selectors

Json = dict[str, Any]
Rule = Callable[[Json], list[str]]

WITHOUT_QUERY = {"row", "text"}
UNITS = {"none", "percentunit", "s", "dtdurations", "ops", "bytes", "decbytes"}
"""Those of Grafana's that the dashboards use."""
HISTOGRAMS = {name for metric in catalogue.METRICS if metric.kind == "histogram" for name in metric.sample_names()}


def panels(dashboard: Json) -> Iterator[Json]:
    """Those that ask something."""
    return (panel for panel in dashboard["panels"] if panel["type"] not in WITHOUT_QUERY)


def expressions(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Where it stands, and what is asked: by panels and by annotations."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"].get("list", []):
        yield annotation["name"], annotation["expr"]


def _panels_where(wrong: Callable[[Json], object]) -> Rule:
    return lambda dashboard: [panel["title"] or "a panel" for panel in panels(dashboard) if wrong(panel)]


def _queries_where(wrong: Callable[[str], object]) -> Rule:
    return lambda dashboard: [f"{place}: {asked}" for place, asked in expressions(dashboard) if wrong(asked)]


def _without(label: str, value: str, excused: Callable[[str], bool]) -> Rule:
    def wrong(expression: str) -> bool:
        return any(
            (label, "=~", value) not in found.matchers and not excused(found.name) for found in selectors(expression)
        )

    return _queries_where(wrong)


def _only_grows(name: str) -> bool:
    return name.endswith("_total") or name in HISTOGRAMS


def _is_recorded(name: str) -> bool:
    return ":" in name


def _is_alerts(name: str) -> bool:
    return name in ("ALERTS", "ALERTS_FOR_STATE")


def _elsewhere(panel: Json) -> bool:
    sources = [panel.get("datasource"), *(target.get("datasource") for target in panel.get("targets", []))]
    return any((source or {}).get("uid") != "${datasource}" for source in sources)


def _variables(dashboard: Json, kind: str) -> list[Json]:
    return [variable for variable in dashboard["templating"]["list"] if variable["type"] == kind]


def _template_datasource(dashboard: Json) -> list[str]:
    wanted = ("datasource", "Data source", "prometheus")
    found = [(one["name"], one["label"], one["query"]) for one in _variables(dashboard, "datasource")]
    return [] if found == [wanted] else [f"data source variables: {found}"]


def _template(name: str) -> Rule:
    def rule(dashboard: Json) -> list[str]:
        (variable,) = [one for one in _variables(dashboard, "query") if one["name"] == name] or [{}]
        facts = [variable.get(key) for key in ("label", "multi", "includeAll", "allValue")]
        source = variable.get("datasource", {}).get("uid")
        good = facts == [name.title(), True, True, ".+"] and source == "${datasource}"
        return [] if good else [f"variable {name}: {facts}"]

    return rule


def _template_label_promql(dashboard: Json) -> list[str]:
    asked = [variable["query"] for variable in _variables(dashboard, "query")]
    return [query for query in asked if not re.fullmatch(r"label_values\([a-z_]+(\{[^{}]*\})?, [a-z_]+\)", query)]


def _template_reload(dashboard: Json) -> list[str]:
    on_time_change = 2
    return [variable["name"] for variable in _variables(dashboard, "query") if variable["refresh"] != on_time_change]


RULES: dict[str, Rule] = {
    "panel-title-description": _panels_where(lambda panel: not (panel.get("title") and panel.get("description"))),
    "panel-units": _panels_where(lambda panel: panel["fieldConfig"]["defaults"].get("unit") not in UNITS),
    "panel-no-targets": _panels_where(lambda panel: not panel.get("targets")),
    "panel-datasource-rule": _panels_where(_elsewhere),
    "target-rate-interval": _queries_where(
        lambda asked: any(
            found.function in ("rate", "irate") and found.window != "$__rate_interval" for found in selectors(asked)
        )
    ),
    "target-counter-agg": _queries_where(
        lambda asked: any(
            _only_grows(found.name) and found.function not in ("rate", "irate", "increase")
            for found in selectors(asked)
        )
    ),
    "target-job-rule": _without("job", "$job", _is_alerts),
    "target-instance-rule": _without("instance", "$instance", lambda name: _is_recorded(name) or _is_alerts(name)),
    "template-datasource-rule": _template_datasource,
    "template-job-rule": _template("job"),
    "template-instance-rule": _template("instance"),
    "template-label-promql-rule": _template_label_promql,
    "template-on-time-change-reload-rule": _template_reload,
    "uneditable-dashboard": lambda dashboard: [] if dashboard["editable"] is False else ["editable"],
}
"""``target-promql-rule`` is promtool's, in the tests."""
