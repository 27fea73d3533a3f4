"""Rules, queries and the configuration, as promtool sees them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from dashboards.__main__ import DIRECTORY as GRAFANA
from dashboards.rules import RULES, render
from tests.promtool import Promtool

PROMETHEUS = Path(__file__).resolve().parents[3] / "dashboards" / "prometheus"


def test_promtool_finds_the_rules_right(tmp_path: Path, promtool: Promtool) -> None:
    fast = tmp_path / "fast.yml"
    fast.write_text(render(pace=20))
    result = promtool("check", "rules", "--lint-fatal", RULES, fast)
    assert result.returncode == 0, result.stderr


def test_the_configuration_is_right(tmp_path: Path, promtool: Promtool) -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    local = tmp_path / "prometheus.yml"
    local.write_text(text.replace("/etc/prometheus/", f"{PROMETHEUS}/"))
    result = promtool("check", "config", local)
    assert result.returncode == 0, result.stderr
    assert "1 rule files found" in result.stdout
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
