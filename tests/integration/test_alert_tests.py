"""The alerts' own tests, run by promtool, and proven: each finds its alert made naive.

All rules in all tests take a minute. An alert depends on nothing but its recording rules, so each is tried with these
alone, which takes seconds. ``promtool test rules dashboards/prometheus/tests/*.yml`` is the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.pace import Pace
from dashboards.rules import RULES, alerts
from dashboards.thresholds import THRESHOLDS
from tests.promtool import Promtool

TESTS = sorted((RULES.parents[1] / "tests").glob("*.yml"))
KINDS = ("fires", "quiet", "gone")
ONCE, TWICE = "max without (instance, pod)", "sum without (instance, pod)"
SLOTS = "max without (slot)"
CONNECTED = re.compile(r"(\w+) and on \(job, instance\) \(loopwatch_monitor_broker_up == 1\)")

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Rules = list[dict[str, Any]]
Tests = list[dict[str, Any]]

NOT_DOUBLED = {
    "LoopwatchLoopConflict": "a time: its test of two monitors finds each of them for itself",
    "LoopwatchEngineLeak": "a difference from 0",
    "LoopwatchPoolSaturated": "a share",
    "LoopwatchPoolWaiters": "a quantile",
    "LoopwatchPoolTimeouts": "any",
    "LoopwatchLoopsUnplanned": "any",
    "LoopwatchTelemetryDropped": "any",
    "LoopwatchTaskFailures": "a share",
    "LoopwatchQueueWithoutWorkers": "none",
    "LoopwatchEventsDisabled": "none",
    "LoopwatchMonitorDisconnected": "none",
    "LoopwatchDuplicateNodeName": "any",
}
"""Alerts whose condition is the same when two monitors count twice."""

NOT_SUMMED = {
    "queue:loopwatch_pool_wait_seconds_bucket:rate5m": "a quantile",
    "worker:celery_task_started:increase10m": "any",
    "LoopwatchPoolTimeouts": "any",
    "LoopwatchNotificationsFailing": "any, of late",
    "LoopwatchMonitorLosingEvents": "any",
}
"""Rules that say the same of the greatest of their parts as of the sum."""

NAIVE = {
    "LoopwatchLoopConflict": [
        (" > 0)) < 600", ")) < 600"),
        (" < 600", " < 6000"),
        (" < 600", " < 0"),
        (
            "(time() - max without (instance, pod) (loopwatch_loop_conflict_last_timestamp_seconds > 0)) < 600",
            "increase(loopwatch_loop_conflicts_total[10m]) > 0",
        ),
        (ONCE, "max without (pod)"),
        (ONCE, "max by (job)"),
    ],
    "LoopwatchLoopConflictsBurning": [
        ("unless (queue", "and (queue"),
        (" or task:celery_task_failed:rate5m", ""),
        ("(task:celery_task_succeeded:rate5m + task:celery_task_failed:rate5m) or ", ""),
    ],
    "LoopwatchEngineLeak": [(SLOTS, "sum without (slot)"), (SLOTS, "avg without (slot)")],
    "LoopwatchEngineOnClosedLoop": [(SLOTS, "sum without (slot)"), (SLOTS, "avg without (slot)")],
    "LoopwatchConnectionLeak": [(SLOTS, "sum without (slot)"), (SLOTS, "avg without (slot)")],
    "LoopwatchLoopBlocked": [(" or (max", " and (max")],
    "LoopwatchLoopsUnplanned": [
        (":max unless", ":max and"),
        ("max_over_time(worker:loopwatch_loops_unplanned:max[24h]", "(worker:loopwatch_loops_unplanned:max"),
        (" or (worker:loopwatch_loops_unplanned:max - min_over_time(worker:loopwatch_loops_unplanned:max[1h]))", ""),
        ("worker:loopwatch_loops_unplanned:max - min_over_time(", "increase("),
    ],
    "LoopwatchPoolSaturated": [("max without (slot) (avg", "avg without (slot) (avg"), ("avg_over", "max_over")],
    "LoopwatchPoolTimeouts": [
        ("loopwatch_pool_timeouts_total - min_over_time(", "increase("),
        (" - min_over_time(loopwatch_pool_timeouts_total[10m])", ""),
    ],
    "LoopwatchNotificationsFailing": [("[2m]", "[5m]")],
    "LoopwatchTaskFailures": [
        (" or task:celery_task_failed:rate5m", ""),
        ("(task:celery_task_succeeded:rate5m + task:celery_task_failed:rate5m) or ", ""),
    ],
    "LoopwatchQueueBacklog": [(" unless queue:celery_task_started:rate10m", ""), (" or (", " and (")],
    "LoopwatchWorkerNotConsuming": [
        ("max_over_time", "min_over_time"),
        ("[10m]", "[3m]"),
        (
            "and on (job, hostname) (max without (instance, pod) (max_over",
            "and on (job) (max without (instance, pod) (max_over",
        ),
        (
            "and on (job, hostname) (max without (instance, pod) (loopwatch_worker_queue",
            "and on (job) (max without (instance, pod) (loopwatch_worker_queue",
        ),
    ],
    "LoopwatchSnapshotsStale": [
        (" and on (job, hostname)", " or on (job, hostname)"),
        (" and on (job, hostname)", " and on (job)"),
    ],
    "LoopwatchQueueWithoutWorkers": [
        ("celery_queue_length and on (job, instance) (loopwatch_monitor_broker_up == 1)", "celery_queue_length")
    ],
    "LoopwatchMonitorDown": [(' or absent(up{job=~"loopwatch.*"})', ""), ("max by (job)", "min by (job)")],
    "LoopwatchMonitorDisconnected": [(ONCE, "min without (instance, pod)")],
    "LoopwatchMonitorLosingEvents": [(" + increase(loopwatch_monitor_reconnects_total[10m])", "")],
    "LoopwatchMonitorBehind": [(" < 60)", " < 6000)")],
}
"""What else somebody might write, by alert: a piece of its expression or of its recording rules, and the naive one."""


@cache
def _tests() -> Tests:
    return [test for path in TESTS for test in yaml.load(path.read_text(), LOADER)["tests"]]


def _tests_of(alert: str, *kinds: str) -> Tests:
    """The alert's tests, of these kinds or of all."""
    beginnings = tuple(f"{alert} {kind}: " for kind in kinds or KINDS)
    return [test for test in _tests() if test["name"].startswith(beginnings)]


@cache
def _expressions(limit: str = "") -> dict[str, str]:
    """The alerts' expressions, where this limit is 0."""
    thresholds = replace(THRESHOLDS, **{limit: 0.0}) if limit else THRESHOLDS
    return {f"Loopwatch{alert.name}": alert.when.text for alert in alerts(Pace(), thresholds)}


ALERTS = sorted(_expressions())


@cache
def _rules() -> Rules:
    return [rule for group in yaml.load(RULES.read_text(), LOADER)["groups"] for rule in group["rules"]]


def _needed(alert: str) -> Rules:
    """The alert, and the recording rules that it is made of."""
    recording = [rule for rule in _rules() if "record" in rule]
    needed = [rule for rule in _rules() if rule.get("alert") == alert]
    for rule in needed:
        needed += [found for found in recording if found["record"] in rule["expr"] and found not in needed]
    return [rule for rule in _rules() if rule in needed]


def _changed(rules: Rules, right: str, naive: str) -> Rules:
    return [rule | {"expr": rule["expr"].replace(right, naive)} for rule in rules]


def _without_for(rules: Rules) -> Rules:
    return [{key: value for key, value in rule.items() if key != "for"} for rule in rules]


def _hasty(alert: str, rules: Rules) -> Iterator[tuple[str, Rules]]:
    """What fires too early: a quiet episode must find it."""
    yield "without its for", _without_for(rules)
    for limit in {field.name for field in fields(THRESHOLDS)} - {
        "conflict_recent_seconds"
    }:  # with that at 0 none fires
        right, naive = _expressions()[alert], _expressions(limit)[alert]
        yield f"with {limit} = 0", _changed(rules, right, naive)


def _naive(alert: str, rules: Rules) -> Iterator[tuple[str, Rules]]:
    """What somebody might write."""
    if alert not in NOT_DOUBLED:
        yield "counted twice by two monitors", _changed(rules, ONCE, TWICE)
    for right, naive in NAIVE.get(alert, []):
        assert any(right in rule["expr"] for rule in rules), right
        yield f"with {naive or 'nothing'} for {right}", _changed(rules, right, naive)
    for number, rule in enumerate(rules):
        name = rule.get("record") or rule["alert"]
        if name not in NOT_SUMMED:
            [greatest] = _changed([rule], "sum without (", "max without (")
            yield f"with the greatest instead of the sum in {name}", [*rules[:number], greatest, *rules[number + 1 :]]
    if any(CONNECTED.search(rule["expr"]) for rule in rules):
        yield (
            "believing a monitor that is cut off",
            [rule | {"expr": CONNECTED.sub(r"\1", rule["expr"])} for rule in rules],
        )


def _run(promtool: Promtool, directory: Path, rules: Rules, tests: Tests) -> tuple[bool, str]:
    """Whether these tests hold for these rules, and what promtool says."""
    directory.mkdir(exist_ok=True)
    (directory / "rules.yml").write_text(json.dumps({"groups": [{"name": "tried", "rules": rules}]}))
    suite = {"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": tests}
    (directory / "tests.yml").write_text(json.dumps(suite))
    result = promtool("test", "rules", directory / "tests.yml")
    said = result.stdout + result.stderr
    assert (result.returncode == 0) == ("FAILED" not in said), said
    return result.returncode == 0, said


@pytest.mark.parametrize("alert", ALERTS)
def test_its_tests_hold_and_find_it_made_naive(alert: str, tmp_path: Path, promtool: Promtool) -> None:
    rules, quiet, told = _needed(alert), _tests_of(alert, "quiet"), _tests_of(alert, "fires", "quiet")
    tries = [("as it is", rules, _tests_of(alert))]
    tries += [(name, mutated, quiet) for name, mutated in _hasty(alert, rules) if mutated != rules]
    tries += [(name, mutated, told) for name, mutated in _naive(alert, rules) if mutated != rules]
    with ThreadPoolExecutor(2) as pool:
        (holds, said), *others = pool.map(
            lambda number: _run(promtool, tmp_path / str(number), *tries[number][1:]), range(len(tries))
        )
    assert holds, said
    assert [name for (name, *_), (survives, _) in zip(tries[1:], others, strict=True) if survives] == []


# ------------------------------------------------------------------------------------------------------ two fleets
def _beside(test: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The test, while another fleet, whose monitors and workers have the same names, does what the other test says."""
    series = [one | {"series": one["series"].replace(OURS, THEIRS)} for one in other["input_series"]]
    questions = [
        question | {"expr": question["expr"].replace('alertstate="firing"', f'alertstate="firing",{OURS}')}
        for question in test["promql_expr_test"]
    ]
    return test | {"input_series": [*test["input_series"], *series], "promql_expr_test": questions}


OURS, THEIRS = 'job="loopwatch"', 'job="loopwatch-other"'


@pytest.mark.parametrize("alert", ALERTS)
def test_what_another_fleet_does_changes_nothing(alert: str, tmp_path: Path, promtool: Promtool) -> None:
    rules, [fires, *_], quiet = _needed(alert), _tests_of(alert, "fires"), _tests_of(alert, "quiet")
    tests = [_beside(fires, quiet[0]), *(_beside(one, fires) for one in quiet)]
    holds, said = _run(promtool, tmp_path / "told apart", rules, tests)
    assert holds, said
    together = [rule | {"expr": re.sub(r"\b(on|by) \(job, ", r"\1 (", rule["expr"])} for rule in rules]
    if together != rules:
        survives, _ = _run(promtool, tmp_path / "together", together, tests)
        assert not survives


@pytest.mark.parametrize("late", ["for", "keep_firing_for"])
def test_a_conflict_is_told_at_once_and_no_longer_than_it_is_recent(
    late: str, tmp_path: Path, promtool: Promtool
) -> None:
    rules = [rule | {late: "1m"} for rule in _needed("LoopwatchLoopConflict")]
    holds, _ = _run(promtool, tmp_path, rules, _tests_of("LoopwatchLoopConflict"))
    assert not holds


def _shown(alert: str, directory: Path, promtool: Promtool, *, number: int = 0) -> str:
    """The description of the alert as its first test makes it fire: what promtool gets where none is expected."""
    test = _tests_of(alert, "fires")[number]
    question = {"eval_time": test["promql_expr_test"][0]["eval_time"], "alertname": alert, "exp_alerts": []}
    asked = test | {"promql_expr_test": [], "alert_rule_test": [question]}
    _, said = _run(promtool, directory, _needed(alert), [asked])
    found = re.search(r'description="((?:[^"\\]|\\.)*)"', said)
    assert found, said
    return str(json.loads(f'"{found[1]}"'))


@pytest.mark.parametrize("alert", ALERTS)
def test_its_description_is_filled_in(alert: str, tmp_path: Path, promtool: Promtool) -> None:
    said = _shown(alert, tmp_path, promtool)
    assert not re.search(r"\{\{|\}\}|<error|<no value>|%!|  | ,| \.|NaN", said), said
    (rule,) = [rule for rule in _needed(alert) if "alert" in rule]
    shown = re.findall(r"\{\{ \$labels\.(\w+) \}\}", rule["annotations"]["description"])
    for label, value in re.findall(r'(\w+)="([^"]*)"', _firing(alert)):
        assert label not in shown or value in said


def _firing(alert: str) -> str:
    test = _tests_of(alert, "fires")[0]
    return str(test["promql_expr_test"][0]["exp_samples"][0]["labels"])


def test_a_conflict_names_worker_and_queue_where_it_is_known(tmp_path: Path, promtool: Promtool) -> None:
    assert _shown("LoopwatchLoopConflict", tmp_path, promtool).startswith(
        "A task of worker content@h1 (queue content) used a resource of another event loop 0s ago: "
    )


def test_a_share_is_never_more_than_all(tmp_path: Path, promtool: Promtool) -> None:
    said = _shown("LoopwatchNotificationsFailing", tmp_path, promtool, number=1)
    assert said.startswith("Of the operations notify in queue content, 100% fail by timeout: ")


@pytest.mark.parametrize("alert", ALERTS)
def test_it_is_seen_to_fire_to_stay_quiet_and_to_go(alert: str) -> None:
    for kind, expected in (("fires", [True]), ("quiet", [False]), ("gone", [True, False])):
        tests = _tests_of(alert, kind)
        assert tests
        for test in tests:
            questions = test["promql_expr_test"]
            assert all(f'alertname="{alert}"' in question["expr"] for question in questions)
            assert [bool(question["exp_samples"]) for question in questions] == expected


def test_no_test_is_left_over() -> None:
    assert {test["name"].split()[0] for test in _tests()} == set(ALERTS)
    assert len({test["name"] for test in _tests()}) == len(_tests())
