"""docker-compose.yml works, on this machine without containers; and what operators look at there is right.

One bring-up serves all: the services as they are, then users and troubles (`seen`), with rules that are some times
faster; Prometheus is asked what panels, alerts' links and the runbook ask it; and at last the services end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from dashboards import rules
from dashboards.pace import Pace
from dashboards.reading import Panel, annotations_of, panels_of
from dashboards.thresholds import THRESHOLDS
from tests.acceptance.compose import Change, Compose
from tests.acceptance.empty_panels import BY_CHANCE, NONE, RIGHTLY_EMPTY, UNBORN, UNSET
from tests.acceptance.operations import operations, waiting_less
from tests.acceptance.process_groups import descendants, members, memory
from tests.acceptance.prometheus import Prometheus
from tests.acceptance.seen import BOARDS, STEP, Seen, checks, columns, followed, watch
from tests.acceptance.stack import ROOT, eventually

pytestmark = pytest.mark.timeout(600)

PACE = 15.0
"""How much faster than in production; a worker's numbers come each 5 seconds, and no window may be shorter."""
CAUSED = (
    "LoopwatchLoopConflict",
    "LoopwatchLoopConflictsBurning",
    "LoopwatchPoolSaturated",
    "LoopwatchPoolWaiters",
    "LoopwatchNotificationsFailing",
)
SICK_NODES = {"logs@global.worker", "content@global.worker", "workflow@global.worker"}
AT_ONCE = ("LoopwatchLoopConflict",)
"""Those that are never pending."""
INHIBITED = ("LoopwatchLoopConflict",)
"""Those that Alertmanager holds back: one conflict is no news where they burn."""

PANELS = [
    pytest.param(board, panel, id=f"{name}: {panel.title}")
    for name, board in BOARDS.items()
    for panel in panels_of(board)
]
every_panel = pytest.mark.parametrize(("board", "panel"), PANELS)
every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
every_alert = pytest.mark.parametrize("name", CAUSED)


@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    # The windows are shorter, too, and hold fewer; a conflict is an alarm no longer than it needs to burn.
    fewer = replace(THRESHOLDS, conflict_count=1, notification_count=1, conflict_recent_seconds=300)
    faster: dict[str, Change] = {
        "./dashboards/prometheus/rules": lambda _: waiting_less(rules.render(pace=PACE, thresholds=fewer))
    }
    # One connection for each of the five processes, one in reserve.
    with operations(environment={"DATABASE_MAX_CONNECTIONS": "6"}, files=faster) as stack:
        yield stack


@pytest.fixture(scope="module")
def seen(stack: Compose) -> Seen:
    return watch(stack, expected=CAUSED, inhibited=INHIBITED)


# ------------------------------------------------------------ the services


def test_every_service_is_healthy(stack: Compose) -> None:
    services = {name for name, service in stack.services.items() if not service.profiles}
    assert {*stack.running} == services - stack.skipped.keys()
    assert stack.skipped.keys() == {"grafana"}


def test_prometheus_knows_its_targets_rules_and_alertmanager(stack: Compose) -> None:
    eventually(lambda: _targets(stack) == UP, what="all targets are up")
    prometheus = Prometheus(stack.url("prometheus"))
    loaded = [rule["name"] for rule in prometheus.rules()]
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "dashboards/prometheus/rules").glob("*.yml")]
    written = [rule for file in files for group in file["groups"] for rule in group["rules"]]
    assert sorted(loaded) == sorted(rule.get("alert") or rule["record"] for rule in written)
    # It begins to look for them when it begins to look for targets, and may find them later.
    [alertmanager] = eventually(prometheus.alertmanagers)
    assert alertmanager.startswith(stack.url("alertmanager"))


UP = [("alertmanager", "up"), ("loopwatch", "up"), ("prometheus", "up")]
"""What Prometheus scrapes; it is ready some seconds before it knows."""


def _targets(stack: Compose) -> list[tuple[str, str]]:
    """Job and health of each."""
    targets = Prometheus(stack.url("prometheus")).targets()
    return sorted((target["labels"]["job"], target["health"]) for target in targets)


def test_the_workers_of_both_settings_work_and_report(seen: Seen) -> None:
    """Health, by users' tasks; and the profile adds workers of other names."""
    succeeded = seen.prometheus.query("sum by (hostname) (celery_task_succeeded_total) > 0", time=seen.height)
    healthy = {"logs@worker", "content@worker", "workflow@worker"}
    assert {series.labels["hostname"] for series in succeeded} >= healthy
    reporting = {
        series.labels["hostname"] for series in seen.prometheus.query("loopwatch_worker_info", time=seen.height)
    }
    assert reporting >= healthy | SICK_NODES


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
        if above and (BY_CHANCE.get(key, UNBORN) != UNBORN or RIGHTLY_EMPTY.get(key) == NONE):
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
    assert not there or columns(panel) - UNSET <= there


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
    found = seen.over("max_over_time", "loopwatch_loop_conflicts_total")
    assert {one.labels["hostname"] for one in found if one.samples[0][1] > 0} == SICK_NODES


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


def test_alertmanager_holds_back_what_another_alert_says_better(seen: Seen) -> None:
    held_back = {alert["labels"]["alertname"] for alert in seen.told if alert["status"]["state"] == "suppressed"}
    active = {alert["labels"]["alertname"] for alert in seen.told if alert["status"]["state"] == "active"}
    assert held_back.issuperset(INHIBITED)
    assert active.issuperset({*CAUSED} - {*INHIBITED})
    assert active.isdisjoint(INHIBITED)


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


CHECKS = checks()


@pytest.mark.parametrize(
    ("alert", "query"), CHECKS, ids=[f"{number}-{alert}" for number, (alert, _) in enumerate(CHECKS)]
)
def test_a_check_of_the_runbook_can_be_asked(seen: Seen, alert: str, query: str) -> None:
    answer = seen.prometheus.query(query, time=seen.height)
    if alert in CAUSED:
        assert answer, f"{alert} is firing, and its runbook's check shows nothing"


@every_alert
def test_the_checks_of_the_runbook_show_whom_the_alert_names(seen: Seen, name: str) -> None:
    [labels] = [rule.when.labels for rule in rules.alerts(Pace()) if f"Loopwatch{rule.name}" == name]
    queries = [query for alert, query in CHECKS if alert == name]
    shown = [(query, one.labels) for query in queries for one in seen.prometheus.query(query, time=seen.height)]
    for alert in _told(seen, name):
        assert any(_agree(alert["labels"], found, labels & {*re.findall(r"\w+", query)}) for query, found in shown)


def _agree(one: dict[str, str], other: dict[str, str], labels: Iterable[str]) -> bool:
    return all(one.get(label, "") == other.get(label, "") for label in labels)


# ------------------------------------------------------------ the end: what stops services comes last


def test_a_service_that_was_killed_is_started_again_where_it_was(stack: Compose, seen: Seen) -> None:
    url = stack.url("monitor")
    stack.kill("monitor")
    assert "monitor" not in stack.running
    missed = [("alertmanager", "up"), ("loopwatch", "down"), ("prometheus", "up")]
    eventually(lambda: _targets(stack) == missed, what="Prometheus misses the monitor")
    stack.start("monitor")
    assert stack.url("monitor") == url
    eventually(lambda: _targets(stack) == UP, what="all targets are up")


def test_no_service_needs_half_of_its_limit(stack: Compose) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in stack.running:
        limit = services[name]["deploy"]["resources"]["limits"]["memory"]
        bytes_allowed = int(limit[:-1]) * {"M": 1 << 20, "G": 1 << 30}[limit[-1]]
        used = memory(descendants(stack.pid(name)))
        assert 0 < used < bytes_allowed / 2, f"{name}: {used >> 20} MB of {limit}"


def test_everything_stops_within_its_grace_period(stack: Compose) -> None:
    groups = [stack.pid(name) for name in stack.running]
    codes = stack.stop()
    assert codes == dict.fromkeys(codes, 0)
    assert len(codes) == len(groups)
    assert [pid for group in groups for pid in members(group)] == []
