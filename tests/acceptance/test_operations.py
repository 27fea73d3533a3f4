"""What operators look at, proven on the real thing: Prometheus and Alertmanager beside the application at work.

docker-compose.yml is started natively, with the rules some times faster (`seen` has what then happens). Afterwards
Prometheus is asked what the panels, the alerts' links and the runbook ask it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dashboards import rules
from dashboards.links import RUNBOOK
from dashboards.reading import Panel, annotations_of, panels_of
from dashboards.thresholds import THRESHOLDS
from tests.acceptance.compose import Change
from tests.acceptance.operations import operations
from tests.acceptance.seen import BOARDS, STEP, Seen, followed, watch

pytestmark = pytest.mark.timeout(600)

PACE = 15.0
"""How much faster than in production; a worker's numbers come each 5 seconds, and no window may be shorter."""
CAUSED = (
    "LoopwatchLoopConflict",
    "LoopwatchLoopConflictsBurning",
    "LoopwatchPoolSaturated",
    "LoopwatchNotificationsFailing",
)
AT_ONCE = ("LoopwatchLoopConflict",)
"""Those that are never pending."""

NONE = "none, as it should be: the series are there, at 0"
RIGHTLY_EMPTY = {
    "loop-conflicts: Loops beyond the plan A": NONE,
    "monitor: Reconnects A": NONE,
    "monitor: Lost events, by reason A": NONE,
    "monitor: Lost events, by reason B": NONE,
    "monitor: Malformed events, by reason A": NONE,
    "monitor: Telemetry dropped, by reason A": "none, and without a drop it has no series",
    "monitor: Duplicate node names A": NONE,
    "monitor: Workers without task events A": "every worker sends them",
    "monitor: Workers with old snapshots A": "every worker sends them",
    "monitor: Evicted entries and dropped series A": NONE,
    "monitor: Evicted entries and dropped series B": "no family is full, and without a drop it has no series",
    "pools: Timeouts A": NONE,
    "pools: Leaks A": "the application sets no leak_threshold",
    "tasks: Tasks that ended, by outcome C": "the application rejects no task",
    "tasks: Retries and revocations A": "the application retries no task",
    "tasks: Retries and revocations B": "nobody revokes a task",
    "tasks: Workers and slots, by queue C": "Redis does not know its consumers; RabbitMQ does",
    "tasks: Started without task-sent A": "the application sets task_send_sent_event",
}
"""Queries (dashboard, panel, letter) that are empty here, and why."""
BY_CHANCE = {
    "loop-conflicts: Stalls A": "a loop may stand still where other tests have the processors",
    "monitor: Background polls without an answer A": "an answer may come too late there",
}
"""Those that may be empty or not."""
UNSET = {"release"}
"""Labels that the application leaves empty."""

PANELS = [
    pytest.param(board, panel, id=f"{name}: {panel.title}")
    for name, board in BOARDS.items()
    for panel in panels_of(board)
]
every_panel = pytest.mark.parametrize(("board", "panel"), PANELS)
every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
every_alert = pytest.mark.parametrize("name", CAUSED)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    # The windows are shorter, too, and hold fewer; a conflict is an alarm no longer than it needs to burn.
    fewer = replace(THRESHOLDS, conflict_count=1, notification_count=1, conflict_recent_seconds=300)
    faster: dict[str, Change] = {"./dashboards/prometheus/rules": lambda _: rules.render(pace=PACE, thresholds=fewer)}
    # One connection for each of the five processes, one in reserve.
    with operations(environment={"DATABASE_MAX_CONNECTIONS": "6"}, files=faster) as stack:
        yield watch(stack, CAUSED)


def _keys(board: dict[str, Any], panel: Panel) -> dict[str, str]:
    """The panel's queries by their names in the lists above."""
    (name,) = [name for name, other in BOARDS.items() if other is board]
    return {f"{name}: {panel.title} {target.ref_id}": target.ref_id for target in panel.targets}


# ------------------------------------------------------------ panels


@every_panel
def test_a_panel_has_data_or_is_rightly_empty(seen: Seen, board: dict[str, Any], panel: Panel) -> None:
    for key, target in zip(_keys(board, panel), panel.targets, strict=True):
        answer = seen.answer(board, target.expression, instant=target.instant, chosen={})
        if key not in BY_CHANCE:
            assert bool(answer) != (key in RIGHTLY_EMPTY), f"{key}: {RIGHTLY_EMPTY.get(key, 'nothing is there')}"
        # What shows only numbers above 0 has some to compare: there is nothing, and not nothing that it looks for.
        everything, above, _ = target.expression.rpartition(" > 0")
        if above and (key in BY_CHANCE or RIGHTLY_EMPTY.get(key) == NONE):
            assert seen.answer(board, everything, instant=target.instant, chosen={}), everything


@every_panel
def test_a_panel_shows_labels_that_there_are(seen: Seen, board: dict[str, Any], panel: Panel) -> None:
    there: set[str] = set()
    for target in panel.targets:
        answer = seen.answer(board, target.expression, instant=target.instant, chosen={})
        labels = {label for series in answer for label in series.labels}
        there |= labels
        if answer:
            assert set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target.legend)) <= labels
    assert not there or _columns(panel) - UNSET <= there


def _columns(panel: Panel) -> set[str]:
    """The labels that a table has columns of."""
    options = [one["options"] for one in panel.raw.get("transformations", ()) if one["id"] == "organize"]
    named = {label for option in options for label in option["indexByName"]}
    return {label for label in named if label != "Time" and not label.startswith("Value")}


@every_panel
def test_a_panel_knows_the_variables_values(seen: Seen, board: dict[str, Any], panel: Panel) -> None:
    """Who chooses each value there is sees what who chooses "All" sees: what is asked for has these labels."""
    chosen = seen.values(board)
    for target in panel.targets:
        if seen.answer(board, target.expression, instant=target.instant, chosen={}):
            assert seen.answer(board, target.expression, instant=target.instant, chosen=chosen), target.expression


def test_no_panel_is_declared_that_is_not_there() -> None:
    there = {key for board in BOARDS.values() for panel in panels_of(board) for key in _keys(board, panel)}
    assert RIGHTLY_EMPTY.keys() | BY_CHANCE.keys() <= there


@every_board
def test_the_variables_have_values(seen: Seen, board: dict[str, Any]) -> None:
    assert {name for name, values in seen.values(board).items() if not values} == set()


@every_board
def test_the_annotations_mark_something(seen: Seen, board: dict[str, Any]) -> None:
    for annotation in annotations_of(board):
        marks = seen.answer(board, annotation.expression, instant=False, chosen={})
        assert marks, annotation.name
        labels = {label for mark in marks for label in mark.labels}
        assert set(re.findall(r"\{\{\s*(\w+)\s*\}\}", annotation.title)) <= labels


# ------------------------------------------------------------ alerts


@every_alert
def test_an_alert_is_pending_then_firing_then_over(seen: Seen, name: str) -> None:
    states = seen.states(name)
    began, ended = states["firing"][0]
    assert seen.quiet < began < seen.height + STEP
    assert began < ended < seen.ended
    assert ("pending" in states) != (name in AT_ONCE)
    assert all(seen.quiet < pending < began for pending, _ in states.get("pending", ())[:1])


def test_nothing_fires_while_all_is_well(seen: Seen) -> None:
    assert seen.prometheus.query('ALERTS{alertstate="firing"}', time=seen.quiet) == []


def test_the_workers_with_the_cure_have_no_conflict(seen: Seen) -> None:
    found = seen.prometheus.query("sum by (hostname) (loopwatch_loop_conflicts_total) > 0", time=seen.height)
    assert {series.labels["hostname"] for series in found} == {"content@global.worker", "workflow@global.worker"}


def test_every_rule_is_evaluated(seen: Seen) -> None:
    loaded = seen.prometheus.rules()
    assert loaded
    assert [(rule["name"], rule["lastError"]) for rule in loaded if rule["health"] != "ok"] == []


# ------------------------------------------------------------ from an alert to its cause, by its links alone


def _told(seen: Seen, name: str) -> list[dict[str, Any]]:
    alerts = [alert for alert in seen.told if alert["labels"]["alertname"] == name]
    assert alerts
    return alerts


def test_what_alertmanager_is_told_is_filled_in(seen: Seen) -> None:
    for alert in seen.told:
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
        for text in alert["annotations"].values():
            assert not re.search(r"<no value>|<error|\{\{|%!|\bNaN\b|  |\s[.,:]", text), text


@every_alert
def test_an_alert_leads_to_a_panel_that_shows_it(seen: Seen, name: str) -> None:
    for alert in _told(seen, name):
        board, panel, chosen = followed(alert["annotations"]["dashboard_url"])
        for label, variable in {"queue_name": "queue", "hostname": "worker", "pool": "pool"}.items():
            if alert["labels"].get(label):
                assert chosen[variable] == [alert["labels"][label]]
        answers = [
            seen.answer(board, target.expression, instant=target.instant, chosen=chosen) for target in panel.targets
        ]
        assert any(answers), alert["annotations"]["dashboard_url"]


@every_alert
def test_an_alert_leads_to_its_heading_in_the_runbook(seen: Seen, name: str) -> None:
    for alert in _told(seen, name):
        _, panel, _ = followed(alert["annotations"]["runbook_url"])
        assert panel.title == name
        assert panel.raw["options"]["content"]


def _checks() -> list[tuple[str, str]]:
    """The queries of the runbook, each with the alert it confirms."""
    sections = re.findall(r"^## (Loopwatch\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    return [
        (alert, query) for alert, text in sections for query in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    ]


CHECKS = _checks()


@pytest.mark.parametrize(
    ("alert", "query"), CHECKS, ids=[f"{number}-{alert}" for number, (alert, _) in enumerate(CHECKS)]
)
def test_a_check_of_the_runbook_can_be_asked(seen: Seen, alert: str, query: str) -> None:
    answer = seen.prometheus.query(query, time=seen.height)
    if alert in CAUSED:
        assert answer, f"{alert} is firing, and its runbook's check shows nothing"
