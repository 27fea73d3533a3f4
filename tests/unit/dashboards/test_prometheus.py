"""Rules, their tests, and the configuration, as promtool sees them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.__main__ import DIRECTORY as GRAFANA
from dashboards.building import RUNBOOK
from dashboards.loop_conflicts import RECENT_SECONDS
from loopwatch.telemetry import catalogue

DASHBOARDS = Path(__file__).resolve().parents[3] / "dashboards"
PROMETHEUS = DASHBOARDS / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))

Promtool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def promtool() -> Promtool:
    program = shutil.which("promtool")
    if program is None:
        missing = "promtool is missing: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [program, *(str(argument) for argument in arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def _alerts() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


every_alert = pytest.mark.parametrize("alert", _alerts(), ids=lambda alert: str(alert["alert"]))


def test_promtool_finds_the_rules_right(promtool: Promtool) -> None:
    result = promtool("check", "rules", *RULES)
    assert result.returncode == 0, result.stderr


def test_the_alerts_fire_and_stay_quiet_as_they_should(promtool: Promtool) -> None:
    result = promtool("test", "rules", *TESTS)
    assert result.returncode == 0, result.stdout + result.stderr


NAIVE = {
    "zero is taken for a time": (" > 0) < 600", ") < 600"),
    "a counter is asked": (
        "time() - max without (instance, pod) (loopwatch_loop_conflict_last_timestamp_seconds > 0) < 600",
        "increase(loopwatch_loop_conflicts_total[10m]) > 0",
    ),
    "it must last": ("        labels:\n", "        for: 1m\n        labels:\n"),
    "it is kept": ("        labels:\n", "        keep_firing_for: 1m\n        labels:\n"),
    "it never ends": (" < 600", " < 6000"),
    "each monitor says it": ("max without (instance, pod) (loopwatch", "max without (pod) (loopwatch"),
    "workers are thrown together": ("max without (instance, pod) (loopwatch", "max by (job) (loopwatch"),
}


@pytest.mark.parametrize(("right", "naive"), NAIVE.values(), ids=NAIVE)
def test_the_rules_tests_find_a_naive_rule(tmp_path: Path, promtool: Promtool, right: str, naive: str) -> None:
    copy = Path(shutil.copytree(PROMETHEUS, tmp_path / "prometheus"))
    rules = copy / "rules" / "loopwatch.yml"
    text = rules.read_text()
    assert right in text
    rules.write_text(text.replace(right, naive, 1))
    result = promtool("test", "rules", copy / "tests" / "loop_conflict.yml")
    assert "FAILED" in result.stdout + result.stderr
    assert result.returncode != 0


def test_the_configuration_is_right(tmp_path: Path, promtool: Promtool) -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    local = tmp_path / "prometheus.yml"
    local.write_text(text.replace("/etc/prometheus/", f"{PROMETHEUS}/"))
    result = promtool("check", "config", local)
    assert result.returncode == 0, result.stderr
    assert f"{len(RULES)} rule files found" in result.stdout
    (scrape,) = [job for job in yaml.safe_load(text)["scrape_configs"] if job["job_name"] == "loopwatch"]
    assert scrape["honor_labels"] is True


def test_every_query_of_the_dashboards_is_promql(tmp_path: Path, promtool: Promtool) -> None:
    values = {"$__rate_interval": "1m", "$__range": "1h"}
    expressions = [
        target["expr"]
        for path in GRAFANA.glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    assert expressions
    for variable, value in values.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    queries = tmp_path / "queries.yml"
    queries.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    result = promtool("check", "rules", queries)
    assert result.returncode == 0, result.stderr


@every_alert
def test_the_alert_follows_the_conventions(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"Loopwatch([A-Z][a-z]+)+", alert["alert"])
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    annotations = alert["annotations"]
    assert annotations["summary"].endswith(".")
    assert "{{" not in annotations["summary"]
    assert "$labels.hostname" in annotations["description"]
    assert annotations["runbook_url"] == f"{RUNBOOK}#{alert['alert'].lower()}"
    assert _uid(annotations["dashboard_url"]) in {
        json.loads(path.read_text())["uid"] for path in GRAFANA.glob("*.json")
    }
    assert set(re.findall(r"\b(?:loopwatch|celery)_\w+", alert["expr"])) <= set(catalogue.exposed_names())


def _uid(url: str) -> str:
    return url.partition("/d/")[2].partition("?")[0]


@every_alert
def test_the_runbook_tells_what_to_do(alert: dict[str, Any]) -> None:
    _, heading, section = (DASHBOARDS / "runbook.md").read_text().partition(f"## {alert['alert']}\n")
    assert heading
    section = section.partition("\n## ")[0]
    for part in ("**What it means.**", "**How to confirm it.**", "**How to fix it.**"):
        assert part in section


def test_dashboard_and_alert_agree_on_what_is_recent() -> None:
    (alert,) = [alert for alert in _alerts() if alert["alert"] == "LoopwatchLoopConflict"]
    assert alert["expr"].endswith(f" < {RECENT_SECONDS}")
