"""A real Alertmanager with our configuration: who is told of which alert, and which are kept quiet by which."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.alerts.alert import Alert
from dashboards.pace import Pace
from dashboards.rules import alerts
from tests.alertmanager import Alertmanager, alertmanager_program, running_alertmanager

CONFIGURATION = Path(__file__).resolve().parents[2] / "dashboards" / "alertmanager" / "alertmanager.yml"
ALERTS = {f"Loopwatch{alert.name}": alert for alert in alerts(Pace())}
PATIENCE_SECONDS = 60.0

Labels = dict[str, str]


def _alert(name: str, **labels: str) -> Labels:
    """An alert as the rules make it: with just the labels that its condition has."""
    alert: Alert = ALERTS[f"Loopwatch{name}"]
    values = {label: labels.pop(label, f"some-{label}") for label in sorted(alert.when.labels)}
    assert not labels, f"{name} has no such labels"
    # What is empty Prometheus does not send.
    return {"alertname": f"Loopwatch{name}", "severity": alert.severity} | {k: v for k, v in values.items() if v}


def _amtool(*arguments: object) -> str:
    alertmanager_program()  # amtool comes with it
    command = [shutil.which("amtool") or "amtool", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_amtool_finds_the_configuration_right() -> None:
    said = _amtool("check-config", CONFIGURATION)
    assert re.search(r"8 inhibit rules\s+- 3 receivers", said)


@pytest.mark.parametrize(("severity", "receiver"), [("critical", "pager"), ("warning", "team"), ("info", "log")])
def test_each_severity_has_its_receiver(severity: str, receiver: str) -> None:
    of_it = [name for name, alert in ALERTS.items() if alert.severity == severity]
    assert of_it
    for name in of_it[:2]:
        labels = (f"alertname={name}", f"severity={severity}", "job=loopwatch")
        _amtool("config", "routes", "test", f"--config.file={CONFIGURATION}", f"--verify.receivers={receiver}", *labels)


def test_it_names_only_alerts_that_exist() -> None:
    rules = yaml.safe_load(CONFIGURATION.read_text())["inhibit_rules"]
    for rule in rules:
        sides = rule["source_matchers"], rule["target_matchers"]
        sources, targets = ([ALERTS[name] for name in ALERTS if _matches(name, side)] for side in sides)
        assert sources
        assert targets
        for alert in [*sources, *targets]:
            assert set(rule.get("equal", ())) <= alert.when.labels, f"{alert.name} lacks a label that must be equal"


def _matches(name: str, matchers: list[str]) -> bool:
    named = [re.fullmatch(r'alertname=~?"(.*)"', matcher) for matcher in matchers]
    return all(re.fullmatch(found[1], name) for found in named if found)


CASES = {
    "a monitor that is down: all of its job, and none of another": (
        _alert("MonitorDown", job="a"),
        [_alert("PoolTimeouts", job="a"), _alert("WorkerLost", job="a"), _alert("MonitorLosingEvents", job="a")],
        [_alert("PoolTimeouts", job="b")],
    ),
    "no target at all, an alert without any label: everything": (
        _alert("MonitorDown", job=""),
        [_alert("PoolTimeouts", job="c"), _alert("DuplicateNodeName", job="d")],
        [],
    ),
    "monitors that are cut off": (
        _alert("MonitorDisconnected", job="e"),
        [_alert("QueueBacklog", job="e"), _alert("PollFailing", job="e")],
        [_alert("QueueBacklog", job="f")],
    ),
    "conflicts that burn": (
        _alert("LoopConflictsBurning", job="g", queue_name="content"),
        [
            _alert("LoopConflict", job="g", hostname="content@h1"),
            _alert("NotificationsFailing", job="g", queue_name="content", reason="loop_conflict"),
        ],
        [
            _alert("LoopConflict", job="h"),
            _alert("NotificationsFailing", job="g", queue_name="content", reason="timeout"),
            _alert("NotificationsFailing", job="g", queue_name="logs", reason="loop_conflict"),
            _alert("TaskFailures", job="g", queue_name="content"),
        ],
    ),
    "a worker that is lost": (
        _alert("WorkerLost", job="i", hostname="content@h1"),
        [
            _alert("SnapshotsStale", job="i", hostname="content@h1"),
            _alert("WorkerNotConsuming", job="i", hostname="content@h1"),
        ],
        [_alert("SnapshotsStale", job="i", hostname="content@h2"), _alert("TaskHung", job="i", hostname="content@h1")],
    ),
    "a queue without workers": (
        _alert("QueueWithoutWorkers", job="j", queue_name="content"),
        [
            _alert("QueueBacklog", job="j", queue_name="content"),
            _alert("QueueOldestTask", job="j", queue_name="content"),
        ],
        [_alert("QueueBacklog", job="j", queue_name="logs"), _alert("TaskFailures", job="j", queue_name="content")],
    ),
    "timeouts": (
        _alert("PoolTimeouts", job="k", queue_name="content", pool="main"),
        [_alert("PoolWaiters", job="k", queue_name="content", pool="main")],
        [_alert("PoolWaiters", job="k", queue_name="content", pool="other")],
    ),
    "a database near its limit": (
        _alert("DatabaseNearLimit", job="l", database="x"),
        [_alert("DatabaseOvercommitted", job="l", database="x")],
        [_alert("DatabaseOvercommitted", job="l", database="y")],
    ),
}
"""An alert, those that it keeps quiet, and those that it does not."""


@pytest.mark.parametrize(("source", "quiet", "loud"), CASES.values(), ids=CASES)
def test_inhibition(source: Labels, quiet: list[Labels], loud: list[Labels], tmp_path: Path) -> None:
    with running_alertmanager(CONFIGURATION, tmp_path) as manager:
        manager.post(source, *quiet, *loud)
        _wait_for(manager, source, quiet)
        states = {_key(alert["labels"]): alert["status"] for alert in manager.alerts()}
        assert [labels for labels in [source, *loud] if states[_key(labels)]["state"] == "suppressed"] == []


def _wait_for(manager: Alertmanager, source: Labels, quiet: list[Labels]) -> None:
    """Until all these alerts are kept quiet by the source and by nothing else."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found: dict[object, dict[str, Any]] = {_key(alert["labels"]): alert for alert in manager.alerts()}
        by = {alert["fingerprint"]: alert["labels"] for alert in found.values()}
        causes = {
            key: [by[cause] for cause in found[key]["status"]["inhibitedBy"]]
            for key in map(_key, quiet)
            if key in found
        }
        if len(causes) == len(quiet) and all(cause == [source] for cause in causes.values()):
            return
        assert time.monotonic() < deadline, causes
        time.sleep(0.05)


def _key(labels: Labels) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())
