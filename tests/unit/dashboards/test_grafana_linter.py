"""The committed dashboards hold the linter's rules, and each rule is able to find what it is about."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dashboards import queries
from dashboards.__main__ import DIRECTORY
from loopwatch.telemetry import catalogue
from tests.unit.dashboards.linter import RULES, Json, expressions, panels
from tests.unit.dashboards.promql import Selector, selectors

DASHBOARDS: dict[str, Json] = {path.name: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}

every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)


@every_dashboard
@pytest.mark.parametrize("rule", RULES)
def test_the_rule_is_held(dashboard: Json, rule: str) -> None:
    assert RULES[rule](dashboard) == []


def _first(dashboard: Json) -> Json:
    return next(panels(dashboard))


def _variable(dashboard: Json, name: str) -> Json:
    found: Json
    (found,) = [one for one in dashboard["templating"]["list"] if one["name"] == name]
    return found


def _ask(expression: str) -> Callable[[Json], None]:
    return lambda dashboard: _first(dashboard)["targets"][0].update(expr=expression)


BAD: list[tuple[str, Callable[[Json], None]]] = [
    ("panel-title-description", lambda it: _first(it).update(description="")),
    ("panel-title-description", lambda it: _first(it).update(title="")),
    ("panel-units", lambda it: _first(it)["fieldConfig"]["defaults"].pop("unit")),
    ("panel-units", lambda it: _first(it)["fieldConfig"]["defaults"].update(unit="furlongs")),
    ("panel-no-targets", lambda it: _first(it).update(targets=[])),
    ("panel-datasource-rule", lambda it: _first(it)["datasource"].update(uid="prometheus")),
    ("panel-datasource-rule", lambda it: _first(it)["targets"][0]["datasource"].update(uid="prometheus")),
    ("target-rate-interval", _ask('sum(rate(a_total{job=~"$job",instance=~"$instance"}[5m]))')),
    ("target-counter-agg", _ask('sum(a_total{job=~"$job",instance=~"$instance"})')),
    ("target-counter-agg", _ask('rate(sum(a_total{job=~"$job",instance=~"$instance"})[5m:])')),
    ("target-job-rule", _ask('sum by (job) (a{instance=~"$instance"})')),
    ("target-job-rule", _ask("max(queue:a:rate5m)")),
    ("target-job-rule", lambda it: it["annotations"]["list"][0].update(expr='a{instance=~"$instance"}')),
    ("target-instance-rule", _ask('sum without (instance) (a{job=~"$job"}) or vector(0)')),
    ("target-instance-rule", _ask("time() - b")),
    ("template-datasource-rule", lambda it: _variable(it, "datasource").update(label="Prometheus")),
    ("template-job-rule", lambda it: _variable(it, "job").update(allValue=".*")),
    ("template-job-rule", lambda it: it["templating"]["list"].remove(_variable(it, "job"))),
    ("template-instance-rule", lambda it: _variable(it, "instance").update(multi=False)),
    ("template-label-promql-rule", lambda it: _variable(it, "queue").update(query="values(a, queue_name)")),
    ("template-on-time-change-reload-rule", lambda it: _variable(it, "queue").update(refresh=1)),
    ("uneditable-dashboard", lambda it: it.update(editable=True)),
]


@pytest.mark.parametrize(("rule", "spoil"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_the_rule_finds_what_is_wrong(rule: str, spoil: Callable[[Json], None]) -> None:
    spoiled = copy.deepcopy(DASHBOARDS["tasks.json"])
    spoil(spoiled)
    assert RULES[rule](spoiled)


def test_every_rule_is_shown_to_find_something() -> None:
    assert {rule for rule, _ in BAD} == set(RULES)


def test_what_an_expression_selects() -> None:
    expression = (
        'sum by (le, a) (rate(x_bucket{job=~"$job",le!="+Inf"}[$__range])) / on (job) group_left () '
        'label_replace(time() - y > 0.5, "a", "$1", "b", "(.*)") and bool < +Inf'
    )
    matchers = (("job", "=~", "$job"), ("le", "!=", "+Inf"))
    assert selectors(expression) == [Selector("x_bucket", matchers, "rate", "$__range"), Selector("y", (), "", "")]


@every_dashboard
def test_queries_name_only_what_exists(dashboard: Json) -> None:
    known = {*catalogue.exposed_names(), *queries.RECORDED, *queries.FROM_ELSEWHERE}
    named = {found.name for _, asked in expressions(dashboard) for found in selectors(asked)}
    assert named <= known
    for variable in dashboard["templating"]["list"][1:]:
        (metric,) = selectors(variable["query"].removeprefix("label_values(").rpartition(",")[0])
        assert metric.name in known


def test_every_query_is_promql(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing = "promtool is missing: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    asked = [expression for dashboard in DASHBOARDS.values() for _, expression in expressions(dashboard)]
    filled = [one.replace("$__rate_interval", "1m").replace("$__range", "1h") for one in asked]
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(filled)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    result = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{len(rules)} rules found" in result.stdout


def test_queries_cannot_name_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="no label queue_name"):
        queries.gauge(catalogue.LOOPS, queue_name="x")
    with pytest.raises(ValueError, match="no label le"):
        queries.gauge(catalogue.POOL_WAIT, le="1")
    with pytest.raises(ValueError, match="no samples"):
        queries.rate(catalogue.POOL_WAIT)
    with pytest.raises(ValueError, match="no recording rule"):
        queries.recorded("queue:loopwatch_nothing:rate5m")
    with pytest.raises(ValueError, match="no label hostname"):
        queries.recorded("queue:celery_queue_drain:seconds", hostname="x")
    with pytest.raises(ValueError, match="FROM_ELSEWHERE"):
        queries.of_monitors("node_load1")
