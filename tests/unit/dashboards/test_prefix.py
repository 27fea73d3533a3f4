"""A monitor with another ``--metric-prefix``: dashboards, rules and runbook made with it ask for what it exposes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dashboards import rules
from dashboards.__main__ import DASHBOARDS, render
from dashboards.links import panel_id
from loopwatch.telemetry import catalogue
from tests.promtool import Promtool
from tests.unit.monitor.test_render import everything, samples

PREFIX = "acme_"


@pytest.fixture(autouse=True)
def prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRIC_PREFIX", PREFIX)


def _texts() -> dict[str, str]:
    return {**{name: render(name) for name in DASHBOARDS}, "rules": rules.render()}


def _named(text: str, prefix: str) -> set[str]:
    """The metrics that begin so, and their recordings, whatever stands before them in JSON."""
    return set(re.findall(rf"(?:(?:\b|(?<=\\n))\w+:)?(?:\b|(?<=\\n)){prefix}\w*", text))


def test_everything_asks_for_what_the_monitor_exposes(monkeypatch: pytest.MonkeyPatch) -> None:
    exposed = {name for name, _ in samples(everything(metric_prefix=PREFIX).page())}
    renamed = {
        name.replace(catalogue.CELERY_PREFIX, PREFIX, 1)
        for name in [*catalogue.exposed_names(), *(metric.name for metric in catalogue.METRICS)]
        if name.startswith(catalogue.CELERY_PREFIX)
    }
    assert exposed & renamed
    for name, text in _texts().items():
        assert _named(text, "celery_") <= {"celery_version"}, f"{name}: only the label is left"
        assert {one for one in _named(text, PREFIX) if ":" not in one} <= renamed | {PREFIX}, name
    with_prefix = _texts()
    monkeypatch.delenv("METRIC_PREFIX")
    for name, text in _texts().items():
        assert len(_named(with_prefix[name], PREFIX)) == len(_named(text, "celery_") - {"celery_version"}), name


def test_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    boards = {name: json.loads(render(name)) for name in DASHBOARDS}
    monkeypatch.delenv("METRIC_PREFIX")
    for name, board in boards.items():
        before: dict[str, Any] = json.loads(render(name))
        assert [(one["id"], one["title"]) for one in board["panels"]] == [
            (one["id"], one["title"]) for one in before["panels"]
        ]
    assert panel_id("loopwatch-tasks", "Queue length")


def test_prometheus_takes_the_rules(tmp_path: Path, promtool: Promtool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rules.yml"
    for prefix in (PREFIX, ""):
        monkeypatch.setenv("METRIC_PREFIX", prefix)
        file.write_text(rules.render())
        result = promtool("check", "rules", file)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("prefix", ["1-", "acme-", "a b"])
def test_a_prefix_that_no_metric_can_have_is_refused(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRIC_PREFIX", prefix)
    with pytest.raises(ValueError, match=r"METRIC_PREFIX: '.*' cannot begin a metric's name; write it like acme_"):
        rules.render()
