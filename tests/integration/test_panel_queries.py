"""What recording rules and panels say where a rate says nothing, or two monitors disagree: asked by promtool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dashboards.__main__ import DIRECTORY
from dashboards.reading import Window, filled, panels_of, variables_of
from dashboards.rules import RULES
from tests.promtool import Promtool

HOUR = Window(start=0, end=3600, step=15, scrape_interval=15)

M, N = 'job="loopwatch",instance="m:9808"', 'job="loopwatch",instance="n:9808"'
CONFLICT = 'queue_name="content",name="t",resource="redis",kind="cross_loop",source="guard"'


def _panel(board: str, title: str) -> str:
    """What the first query of a panel asks, with All chosen, over an hour."""
    read = json.loads((DIRECTORY / f"{board}.json").read_text())
    (panel,) = [panel for panel in panels_of(read) if panel.title == title]
    return filled(panel.targets[0].expression, variables_of(read) | HOUR.variables())


def _asked(
    promtool: Promtool, directory: Path, series: Mapping[str, str], expression: str, at: str, said: Mapping[str, float]
) -> None:
    """Asserts that the expression says this of these series, with all rules, at this time."""
    samples = [{"labels": labels, "value": value} for labels, value in said.items()]
    test: dict[str, Any] = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": at, "exp_samples": samples}],
    }
    suite = directory / "tests.yml"
    suite.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    result = promtool("test", "rules", suite)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("values", "at", "conflicts"),
    [
        pytest.param("_x400 1+0x40", "105m", 1, id="one, the first of its series"),
        pytest.param("_x400 1+0x8 4+0x40", "105m", 4, id="four, the first among them"),
        pytest.param("7+0x400 8+0x40", "105m", 1, id="one more"),
        pytest.param("7+0x300 _x40 7+0x400", "160m", None, id="none: the monitor paused, and repeats old ones"),
        pytest.param("7+0x300 _x40 7+0x400", "142m", None, id="none: it did so an hour ago"),
    ],
)
def test_the_panel_of_a_conflict_counts_the_first_one(
    values: str, at: str, conflicts: float | None, tmp_path: Path, promtool: Promtool
) -> None:
    series = {f'loopwatch_loop_conflicts_total{{{one},hostname="content@h1",{CONFLICT}}}': values for one in (M, N)}
    asked = f"round({_panel('loop-conflicts', 'Conflicts by worker and task')})"
    labels = f'{{hostname="content@h1",{CONFLICT}}}'
    _asked(promtool, tmp_path, series, asked, at, {} if conflicts is None else {labels: conflicts})


def test_the_panel_of_unplanned_loops_counts_those_of_a_new_worker(tmp_path: Path, promtool: Promtool) -> None:
    series = {f'loopwatch_loops_unplanned_total{{{M},hostname="content@h1",pool="main"}}': "_x400 3+0x40"}
    asked = _panel("loop-conflicts", "Loops beyond the plan")
    _asked(promtool, tmp_path, series, asked, "105m", {'{hostname="content@h1",pool="main"}': 3})


@pytest.mark.parametrize(
    ("length", "started", "seconds"),
    [
        pytest.param("300+0x60", "0+15x60", 300, id="300 tasks, one a second"),
        pytest.param("0+0x60", "0+15x60", 0, id="none waits"),
        pytest.param("300+0x60", "7+0x60", 3600, id="none is started any more"),
        pytest.param("300+0x60", None, 3600, id="none was ever started"),
        pytest.param("0+0x60", "7+0x60", None, id="nothing to do"),
    ],
)
def test_the_panel_of_a_backlog_shows_it_where_none_is_started(
    length: str, started: str | None, seconds: float | None, tmp_path: Path, promtool: Promtool
) -> None:
    series = {
        f'celery_queue_length{{{M},queue_name="content"}}': length,
        f"loopwatch_monitor_broker_up{{{M}}}": "1+0x60",
    }
    if started is not None:
        series[f'celery_task_started_total{{{M},hostname="a@h",queue_name="content",name="t"}}'] = started
    labels = '{job="loopwatch",queue_name="content"}'
    said = {} if seconds is None else {labels: seconds}
    _asked(promtool, tmp_path, series, f"round({_panel('tasks', 'Time to drain')})", "14m", said)


USED = 'loopwatch_pool_connections{%s,hostname="%s",slot="0",pool="main",state="used"}'
DISAGREEING = {
    USED % (N, "a@h"): "1+0x40",
    USED % (N, "b@h"): "2+0x40",
    f'loopwatch_worker_info{{{M},hostname="a@h",queue_name="old"}}': "1+0x40",
    f'loopwatch_worker_info{{{N},hostname="a@h",queue_name="new"}}': "1+0x40",
    f'loopwatch_worker_info{{{N},hostname="b@h",queue_name="b"}}': "1+0x40",
}
"""Two monitors, of which one does not know yet, or any more, what the worker a@h consumes."""
BY_QUEUE = "queue:loopwatch_pool_connections_used:sum"


def test_two_monitors_that_disagree_of_a_workers_queue_cost_nobody_its_figures(
    tmp_path: Path, promtool: Promtool
) -> None:
    """A join with two queues of one worker is refused, and the figures of all with it."""
    up = {f"loopwatch_monitor_broker_up{{{one}}}": "1+0x40" for one in (M, N)}
    _asked(promtool, tmp_path, DISAGREEING | up, f"sum by (pool) ({BY_QUEUE})", "5m", {'{pool="main"}': 3})


def test_a_monitor_that_is_cut_off_does_not_say_what_a_worker_consumes(tmp_path: Path, promtool: Promtool) -> None:
    up = {f"loopwatch_monitor_broker_up{{{M}}}": "0+0x40", f"loopwatch_monitor_broker_up{{{N}}}": "1+0x40"}
    labels = BY_QUEUE + '{job="loopwatch",pool="main",queue_name="%s"}'
    _asked(promtool, tmp_path, DISAGREEING | up, BY_QUEUE, "5m", {labels % "new": 1, labels % "b": 2})
