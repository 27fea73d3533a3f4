"""The rules as they are made: of the catalogue, at any pace, with links that lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from dashboards import prometheus_rule
from dashboards.__main__ import DIRECTORY
from dashboards.alerts.alert import Alert
from dashboards.links import GRAFANA, RUNBOOK, RUNBOOK_UID, dashboard_url, headings, panel_id, runbook_url
from dashboards.loop_conflicts import RECENT_SECONDS
from dashboards.pace import Pace
from dashboards.rules import RULES, alerts, render
from dashboards.thresholds import THRESHOLDS
from dashboards.vectors import Vector, once, series
from loopwatch.conflict_patterns import Kind
from loopwatch.conflicts import Source
from loopwatch.telemetry import catalogue
from loopwatch.tolerate import Reason
from loopwatch_monitor.intake import decode
from loopwatch_monitor.intake.batch import LOST_REASONS
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.polls import POLLS
from loopwatch_monitor.state.samples import Samples
from tests.promtool import Promtool

ALERTS = alerts(Pace())
NAMES = [f"Loopwatch{alert.name}" for alert in ALERTS]
BOARDS = [json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))]
ROOT = Path(__file__).resolve().parents[3]
LOG_EVENTS = (
    *("broker_lost", "broker_unreachable", "duplicate_node_name", "event_not_folded", "loop_conflict_reported"),
    *("poll_answered", "poll_failed", "web_config_not_reloaded", "web_config_reloaded"),
    *("a connection of the pool", "has run nothing else for", "no other thread could see why", "no answer within"),
    *("event loops of this process hold a pool at once, and the budget plans", "cannot publish its snapshots for now"),
)
"""What the runbook tells to look for in a log."""


@pytest.fixture(autouse=True)
def usual_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GRAFANA_URL", "RUNBOOK_URL", "METRIC_PREFIX"):
        monkeypatch.delenv(variable, raising=False)


def _rules(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


every_alert = pytest.mark.parametrize("alert", ALERTS, ids=NAMES)


def test_the_committed_rules_are_what_the_code_makes() -> None:
    assert RULES.read_text() == render(), "run `make dashboards` and commit the result"
    assert sorted(prometheus_rule.RULES.glob("*.yml")) == [RULES]


def test_every_metric_is_in_the_catalogue_or_recorded() -> None:
    rules = _rules(render())
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        named = set(re.findall(r"\b(?:\w+:)?(?:loopwatch|celery)_\w+(?::\w+)?", rule["expr"]))
        assert named <= set(catalogue.exposed_names()) | recorded
        assert named or rule["alert"] == "LoopwatchMonitorDown"


def test_a_recording_rule_is_named_by_level_metric_and_operations_and_is_used_after_it() -> None:
    known: set[str] = set()
    for rule in _rules(render()):
        used = set(re.findall(r"\b\w+:\w+:\w+", rule["expr"]))
        assert used <= known
        if "record" in rule:
            assert re.fullmatch(r"(process|worker|task|queue|database):(loopwatch|celery)_\w+:\w+", rule["record"])
            assert "_total" not in rule["record"]
            known.add(rule["record"])


@every_alert
def test_the_alert_follows_the_conventions(alert: Alert) -> None:
    assert re.fullmatch(r"([A-Z][a-z]+)+", alert.name)
    assert alert.summary.endswith(".")
    assert "{{" not in alert.summary
    annotations = alert.rule(Pace())["annotations"]
    assert annotations["description"].endswith((".", "}}"))
    places = alert.when.labels - {"job", "slot"} or {"job"}
    assert places <= set(re.findall(r"\$labels\.(\w+)", annotations["description"])), "names what it is about"


def test_an_alert_says_only_what_its_condition_knows() -> None:
    with pytest.raises(ValueError, match="has no label queue_name"):
        Alert(
            name="X",
            severity="info",
            when=series(catalogue.LOOPS).then("> 0"),
            summary="X.",
            description="Of {queue_name}.",
            panel=("loopwatch-x", "X"),
        )


def test_a_worker_that_is_gone_is_lost_and_not_stale() -> None:
    """An age and how long it lasts lie above the time after which a silent worker is lost; so no two alerts tell it."""
    (stale,) = [alert for alert in ALERTS if alert.name == "SnapshotsStale"]
    assert THRESHOLDS.snapshot_seconds + stale.lasts > Settings(broker_url="redis://localhost").worker_timeout


# ------------------------------------------------------------------------------------------------------ the pace
# Windows; rates over five minutes as numbers; a conflict's 600 seconds, and the last event's 60.
DURATION = re.compile(r"(?:\[| offset )(?:\d+(?:h|m|s|ms))+\]?|\* (?:300|15)\b|< (?:600|30)$|< (?:60|3)\b")


def _timeless(text: str) -> list[dict[str, Any]]:
    rules = _rules(text)
    for rule in rules:
        rule["expr"] = DURATION.sub("", rule["expr"])
        rule.pop("for", None)
    return rules


def test_a_pace_divides_every_duration_and_changes_nothing_else() -> None:
    usual, fast = render(), render(pace=20)
    assert _timeless(fast) == _timeless(usual)
    assert [group["interval"] for group in yaml.safe_load(fast)["groups"]] == ["750ms", "750ms"]
    for before, after in zip(_rules(usual), _rules(fast), strict=True):
        assert ("for" in before) == ("for" in after)
        durations = [before.get("for", "0s"), *re.findall(r"(?:\[| offset )(\w+)", before["expr"])]
        faster = [after.get("for", "0s"), *re.findall(r"(?:\[| offset )(\w+)", after["expr"])]
        assert [_seconds(text) for text in durations] == [_seconds(text) * 20 for text in faster]
    assert "< 600" in usual
    assert "< 600" not in fast


def _seconds(text: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|h|m|s)", text))


@pytest.mark.parametrize(
    ("factor", "seconds", "text"),
    [(1, 15, "15s"), (1, 90, "1m30s"), (1, 3600, "1h"), (20, 15, "750ms"), (1000, 0.1, "1ms")],
)
def test_durations_as_prometheus_writes_them(factor: float, seconds: float, text: str) -> None:
    assert Pace(factor)(seconds) == text


def test_a_pace_is_above_0() -> None:
    with pytest.raises(ValueError, match="above 0, not 0"):
        render(pace=0)


def test_dashboard_and_alert_agree_on_what_is_recent() -> None:
    assert THRESHOLDS.conflict_recent_seconds == RECENT_SECONDS


# ----------------------------------------------------------------------------------------------------- the links
@every_alert
def test_the_links_lead_to_the_panel_and_to_the_runbook(alert: Alert) -> None:
    rule = alert.rule(Pace())
    address, _, query = rule["annotations"]["dashboard_url"].partition("?")
    uid, title = alert.panel
    assert address == f"{GRAFANA}/d/{uid}"
    assert query.startswith(f"viewPanel={panel_id(uid, title)}&var-job={{{{ $labels.job | urlquery }}}}")
    number = panel_id(RUNBOOK_UID, rule["alert"])
    assert rule["annotations"]["runbook_url"] == f"{GRAFANA}/d/{RUNBOOK_UID}/?viewPanel={number}"


@every_alert
def test_the_panel_heeds_what_the_link_chooses(alert: Alert) -> None:
    uid, title = alert.panel
    [board] = [board for board in BOARDS if board["uid"] == uid]
    [panel] = [panel for panel in board["panels"] if panel["title"] == title]
    chosen = re.findall(r"&var-(\w+)=", alert.rule(Pace())["annotations"]["dashboard_url"])
    asked = " ".join(target["expr"] for target in panel["targets"])
    assert {name for name in chosen if not re.search(rf"\${name}\b", asked)} == set()


def test_a_title_that_no_panel_has_is_an_error() -> None:
    with pytest.raises(LookupError, match="0 panels with the title 'No such'"):
        panel_id("loopwatch-loop-conflicts", "No such")
    with pytest.raises(LookupError, match="no dashboard loopwatch-none"):
        panel_id("loopwatch-none", "No such")


def test_the_places_are_the_fleets_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFANA_URL", "https://grafana.example/")
    assert dashboard_url("loopwatch-pools") == "https://grafana.example/d/loopwatch-pools"
    first = headings()[0]
    assert runbook_url(first) == "https://grafana.example/d/loopwatch-runbook/?viewPanel=1"
    monkeypatch.setenv("RUNBOOK_URL", "https://wiki.example/loopwatch")
    assert runbook_url(first) == f"https://wiki.example/loopwatch#{first.lower()}"
    with pytest.raises(LookupError, match="no heading LoopwatchNone"):
        runbook_url("LoopwatchNone")


# --------------------------------------------------------------------------------------------------- the runbook
def test_the_runbook_has_a_heading_for_each_alert_and_no_other() -> None:
    assert sorted(headings()) == sorted(NAMES)
    assert re.findall(r"^## (.*)$", RUNBOOK.read_text(), flags=re.MULTILINE) == headings()


def _section(name: str) -> str:
    return RUNBOOK.read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_runbook_tells_what_to_do(name: str) -> None:
    parts = re.findall(r"^\*\*(\w+)\.\*\*", _section(name), flags=re.MULTILINE)
    assert parts == ["Meaning", "Check", "Fix"]


def test_the_runbooks_queries_ask_what_there_is(tmp_path: Path, promtool: Promtool) -> None:
    queries = re.findall(r"^```promql\n(.*?)\n```$", RUNBOOK.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(queries) > len(NAMES) / 2
    known = set(catalogue.exposed_names()) | {rule["record"] for rule in _rules(render()) if "record" in rule}
    for query in queries:
        assert set(re.findall(r"\b(?:\w+:)?(?:loopwatch|celery)_\w+(?::\w+)?", query)) <= known, query
    file = tmp_path / "queries.yml"
    rules = [{"record": f"runbook:{number}", "expr": query} for number, query in enumerate(queries)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}))
    result = promtool("check", "rules", file)
    assert result.returncode == 0, result.stderr


TOLD_APART = {
    "LoopConflict": (*get_args(Kind), *get_args(Source), "event"),
    "NotificationsFailing": get_args(Reason),
    "TelemetryDropped": catalogue.TELEMETRY_DROP_REASONS,
    "MonitorLosingEvents": LOST_REASONS,
    "EventsMalformed": decode.REASONS,
    "TableFull": tuple(Samples(Fleet(labels=Labels()), version="1").tables()),
    "PollFailing": POLLS,
}
"""What the alerts' labels may say, and their panels'."""


@pytest.mark.parametrize(("alert", "value"), [(alert, one) for alert, values in TOLD_APART.items() for one in values])
def test_the_runbook_says_what_each_value_of_a_label_means(alert: str, value: str) -> None:
    assert f"`{value}`" in _section(f"Loopwatch{alert}")


@pytest.mark.parametrize("event", sorted(LOG_EVENTS))
def test_what_the_runbook_and_the_alerts_say_is_logged_is_logged(event: str) -> None:
    sources = [*(ROOT / "loopwatch").rglob("*.py"), *(ROOT / "monitor").rglob("*.py")]
    assert any(event in path.read_text() for path in sources)
    assert event in RUNBOOK.read_text()


# --------------------------------------------------------------------------------------------------- the vectors
def test_queries_cannot_name_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="no label queue_name"):
        series(catalogue.LOOPS, queue_name="x")
    with pytest.raises(ValueError, match="no samples"):
        series(catalogue.POOL_WAIT)
    with pytest.raises(ValueError, match="no label slot"):
        series(catalogue.POOL_WAIT, "_count").sum_without("slot")
    with pytest.raises(ValueError, match="no label le"):
        series(catalogue.POOL_WAIT, "_count").quantile(0.5)
    with pytest.raises(ValueError, match="no label instance"):
        once(once(series(catalogue.LOOPS)))


def test_operands_that_never_match_are_refused() -> None:
    loops, engines = series(catalogue.LOOPS), series(catalogue.ENGINES)
    with pytest.raises(ValueError, match="labels differ, nothing matches"):
        engines.with_("-", loops)
    with pytest.raises(ValueError, match="no label pool"):
        engines.with_("-", loops, on=("pool",))
    assert engines.with_("-", loops, on=("job", "hostname", "slot")).labels == engines.labels


def test_what_is_compound_is_put_in_parentheses() -> None:
    a, b = Vector("a", frozenset()), Vector("b", frozenset())
    assert a.then("* 2").then("> 1").text == "(a * 2) > 1"
    assert a.with_("+", b).with_("or", a.after("time() -")).text == "(a + b) or (time() - a)"
