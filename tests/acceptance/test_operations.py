"""What operators look at, proven on the real thing: Prometheus and Alertmanager beside the application at work.

docker-compose.yml is started natively (`compose`), with rules that are some times faster. Users come; then three things
go wrong at once and are ended: workers share clients between loops (``APP_RESOURCES=global``), somebody locks a table
while the pools are of one connection, Redis refuses the notifications. What Prometheus has of it is asked afterwards.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dashboards import rules
from dashboards.__main__ import DIRECTORY
from dashboards.reading import Panel, Target, Window, annotations_of, filled, panels_of, variables_of
from dashboards.thresholds import THRESHOLDS
from tests.acceptance.compose import Change, Compose
from tests.acceptance.history import runs
from tests.acceptance.operations import operations
from tests.acceptance.prometheus import Alertmanager, Prometheus, Series
from tests.acceptance.stack import ROOT, eventually
from tests.acceptance.troubles import locked_logs, refused_notifications, users

pytestmark = pytest.mark.timeout(600)

PACE = 15.0
"""How much faster than in production; a worker's numbers are of the last 5 seconds, and no window may be shorter."""
PATIENCE = 180.0
"""Seconds that an alert may take on a machine with other work."""
CAUSED = (
    "LoopwatchLoopConflict",
    "LoopwatchLoopConflictsBurning",
    "LoopwatchPoolSaturated",
    "LoopwatchNotificationsFailing",
)
AT_ONCE = ("LoopwatchLoopConflict",)
"""Those that are never pending."""
SICK = ("celery_content_global", "celery_workflow_global")
ENVIRONMENT = {"DATABASE_MAX_CONNECTIONS": "6"}
"""One for each of the five processes, one in reserve."""

RIGHTLY_EMPTY: dict[str, str] = {}
"""Queries of panels (dashboard, title, letter) that are empty here, and why."""

BOARDS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}
QUERIES = [
    (name, panel, target) for name, board in BOARDS.items() for panel in panels_of(board) for target in panel.targets
]


@dataclass(frozen=True)
class Seen:
    """The servers, and when what happened.

    Attributes:
        began, quiet, height, ended: the times at which the users came, all was well, all alerts were firing, none was.
        told: the alerts that Alertmanager had at the height.
    """

    prometheus: Prometheus
    began: float
    quiet: float
    height: float
    ended: float
    told: list[dict[str, Any]]

    def answer(self, board: str, target: Target) -> list[Series]:
        """What the panel shows somebody who looks at the height, "All" chosen everywhere."""
        window = Window(start=self.began, end=self.height, step=1, scrape_interval=1)
        expression = filled(target.expression, variables_of(BOARDS[board]) | window.variables())
        if target.instant:
            return self.prometheus.query(expression, time=self.height)
        return self.prometheus.query_range(expression, start=self.began, end=self.height, step=1)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    few = replace(THRESHOLDS, conflict_count=1, notification_count=1)  # the windows are shorter, too
    files: dict[str, Change] = {
        "./dashboards/prometheus/rules": lambda _: rules.render(pace=PACE, thresholds=few)
    }
    with operations(environment=ENVIRONMENT, files=files) as stack:
        yield _watch(stack)


def _watch(stack: Compose) -> Seen:
    prometheus, alertmanager = Prometheus(stack.url("prometheus")), Alertmanager(stack.url("alertmanager"))
    database = stack.url("postgres").replace("http://", "postgresql://app:app@") + "/app"
    notifications = stack.url("redis").replace("http://", "redis://")

    def told() -> list[dict[str, Any]]:
        alerts = alertmanager.alerts()
        return alerts if {alert["labels"]["alertname"] for alert in alerts}.issuperset(CAUSED) else []

    def over() -> bool:
        left = {alert["labels"]["alertname"] for alert in alertmanager.alerts() + prometheus.alerts()}
        return left.isdisjoint(CAUSED)

    began = time.time()
    with users(stack.url("api")):
        every_queue = "count(sum by (queue_name) (celery_task_succeeded_total) > 0) == 3"
        eventually(lambda: prometheus.query(every_queue), timeout=PATIENCE, what="tasks of each queue")
        quiet = time.time()
        with locked_logs(database), refused_notifications(notifications):
            stack.start(*SICK)
            alerts = eventually(told, timeout=PATIENCE, what=", ".join(CAUSED))
            height = time.time()
            stack.stop(*SICK)
        eventually(over, timeout=PATIENCE, what="the end of all alerts")
    return Seen(prometheus, began, quiet, height, time.time(), alerts)


# ------------------------------------------------------------ panels


@pytest.mark.parametrize(
    ("board", "panel", "target"), QUERIES, ids=[f"{b}: {p.title} {t.ref_id}" for b, p, t in QUERIES]
)
def test_the_query_of_a_panel_has_data_or_is_rightly_empty(
    seen: Seen, board: str, panel: Panel, target: Target
) -> None:
    key = f"{board}: {panel.title} {target.ref_id}"
    numbers = [series for series in seen.answer(board, target) if any(not math.isnan(v) for _, v in series.samples)]
    assert bool(numbers) != (key in RIGHTLY_EMPTY), RIGHTLY_EMPTY.get(key, "nothing is there")
    labels = {label for series in numbers for label in series.labels}
    if numbers:
        assert _labels_shown(panel, target) <= labels


def _labels_shown(panel: Panel, target: Target) -> set[str]:
    """The labels in the legend, or at the head of a table's columns."""
    shown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target.legend))
    if target.form == "table":
        for transformation in panel.raw.get("transformations", ()):
            shown |= set(transformation["options"].get("indexByName", {}))
    return {label for label in shown if label != "Time" and not label.startswith("Value")}


def test_no_panel_is_declared_empty_that_is_not_there() -> None:
    assert set(RIGHTLY_EMPTY) <= {f"{board}: {panel.title} {target.ref_id}" for board, panel, target in QUERIES}


@pytest.mark.parametrize("board", BOARDS)
def test_the_variables_have_values(seen: Seen, board: str) -> None:
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*),\s*(\w+)\)", variable["query"])
            assert match, variable["query"]
            selector = filled(match[1], variables_of(BOARDS[board]))
            values = {labels.get(match[2], "") for labels in seen.prometheus.series(selector)}
            assert values - {""}, variable["name"]


@pytest.mark.parametrize("board", BOARDS)
def test_the_annotations_mark_something(seen: Seen, board: str) -> None:
    window = Window(start=seen.began, end=seen.height, step=1, scrape_interval=1)
    for annotation in annotations_of(BOARDS[board]):
        expression = filled(annotation.expression, variables_of(BOARDS[board]) | window.variables())
        marks = seen.prometheus.query_range(expression, start=seen.began, end=seen.height, step=1)
        assert marks, annotation.name
        assert set(re.findall(r"\{\{\s*(\w+)\s*\}\}", annotation.title)) <= {
            label for one in marks for label in one.labels
        }


# ------------------------------------------------------------ alerts


def _states(seen: Seen, name: str) -> dict[str, list[tuple[float, float]]]:
    """When an alert of this name was pending, and when it was firing, for whomever."""
    expression = f'max by (alertstate) (ALERTS{{alertname="{name}"}})'
    found = seen.prometheus.query_range(expression, start=seen.began, end=seen.ended, step=1)
    return {one.labels["alertstate"]: runs((moment for moment, _ in one.samples), step=1) for one in found}


@pytest.mark.parametrize("name", CAUSED)
def test_an_alert_is_pending_then_firing_then_over(seen: Seen, name: str) -> None:
    states = _states(seen, name)
    (began, ended) = states["firing"][0]
    assert seen.quiet < began <= seen.height < ended <= seen.ended
    if name in AT_ONCE:
        assert "pending" not in states
    else:
        assert seen.quiet < states["pending"][0][0] < began


def test_nothing_fires_while_all_is_well(seen: Seen) -> None:
    assert seen.prometheus.query('ALERTS{alertstate="firing"}', time=seen.quiet) == []


def test_the_healthy_workers_are_not_blamed(seen: Seen) -> None:
    """With the cure the same traffic has no conflict."""
    found = seen.prometheus.query_range(
        'ALERTS{alertname="LoopwatchLoopConflict"}', start=seen.began, end=seen.ended, step=1
    )
    assert {series.labels["hostname"] for series in found} == {"content@global.worker", "workflow@global.worker"}


def test_every_rule_is_evaluated(seen: Seen) -> None:
    rules_seen = seen.prometheus.rules()
    assert [(rule["name"], rule["lastError"]) for rule in rules_seen if rule["health"] != "ok"] == []
    assert rules_seen


@pytest.mark.parametrize("name", CAUSED)
def test_an_alert_reaches_alertmanager_and_leads_to_the_cause(seen: Seen, name: str) -> None:
    for alert in (alert for alert in seen.told if alert["labels"]["alertname"] == name):
        annotations = alert["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
        for text in annotations.values():
            assert not re.search(r"<no value>|<error|\{\{|%!|\bNaN\b| {2}", text), text
        _assert_shows(annotations["dashboard_url"], alert["labels"])
        assert _runbook_section(annotations["runbook_url"]).startswith(f"## {name}\n")


def _assert_shows(url: str, labels: dict[str, str]) -> None:
    """The address leads to a panel that has a query, with the variables set to the alert's labels."""
    board, parameters = _followed(url)
    (number,) = parameters.pop("viewPanel")
    (panel,) = [panel for panel in panels_of(board) if panel.number == int(number)]
    assert panel.targets
    chosen = {name.removeprefix("var-"): values for name, values in parameters.items()}
    for label, variable in {"queue_name": "queue", "hostname": "worker", "pool": "pool"}.items():
        if labels.get(label):
            assert chosen[variable] == [labels[label]]
    variables_of(board, **chosen)


def _followed(url: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The dashboard that an address leads to, and its parameters."""
    parts = urlsplit(url)
    uid = parts.path.removeprefix("/d/").strip("/")
    (board,) = [board for board in BOARDS.values() if board["uid"] == uid]
    return board, parse_qs(parts.query, strict_parsing=True)


def _runbook_section(url: str) -> str:
    """What stands on the runbook's panel that an address leads to."""
    board, parameters = _followed(url)
    (panel,) = [
        panel for panel in panels_of(board, without_queries=True) if [str(panel.number)] == parameters["viewPanel"]
    ]
    text: str = panel.raw["options"]["content"]
    return f"## {panel.title}\n{text}"


CHECKS = [
    (heading, block)
    for heading, section in re.findall(
        r"^## (Loopwatch\w+)\n(.*?)(?=^## |\Z)",
        (ROOT / "dashboards" / "runbook.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    for block in re.findall(r"```promql\n(.*?)```", section, re.DOTALL)
]


@pytest.mark.parametrize(
    ("alert", "query"), CHECKS, ids=[f"{name} {number}" for number, (name, _) in enumerate(CHECKS)]
)
def test_a_check_of_the_runbook_can_be_asked(seen: Seen, alert: str, query: str) -> None:
    answer = seen.prometheus.query(query, time=seen.height)
    if alert in CAUSED:
        assert answer, f"{alert} is firing, and its runbook's check shows nothing"
