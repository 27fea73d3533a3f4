"""A dashboard's JSON read as Grafana reads it."""

from __future__ import annotations

import doctest
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from dashboards import reading
from dashboards.__main__ import DIRECTORY
from dashboards.reading import Grid, Window, annotations_of, filled, legend_of, panels_of, variables_of

BOARDS = [pytest.param(json.loads(path.read_text()), id=path.stem) for path in sorted(DIRECTORY.glob("*.json"))]
WINDOW = Window(start=100, end=700, step=2, scrape_interval=2)


def _variable(**more: Any) -> dict[str, Any]:
    return {"name": "queue", "type": "query", "multi": True, **more}


def _board(*listed: dict[str, Any], panels: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"templating": {"list": list(listed)}, "panels": list(panels)}


def _raw(**more: Any) -> dict[str, Any]:
    return {"id": 1, "type": "timeseries", "title": "T", "gridPos": {"x": 1, "y": 2, "w": 3, "h": 4}, **more}


def test_the_examples_run() -> None:
    assert doctest.testmod(reading).failed == 0


@pytest.mark.parametrize("board", BOARDS)
def test_every_query_of_the_committed_dashboards_is_filled_in(board: dict[str, Any]) -> None:
    variables = {**variables_of(board), **WINDOW.variables()}
    expressions = [target.expression for panel in panels_of(board) for target in panel.targets]
    expressions += [annotation.expression for annotation in annotations_of(board)]
    assert expressions or all(panel["type"] in reading.WITHOUT_QUERIES for panel in board["panels"])
    for expression in expressions:
        assert "$" not in filled(expression, variables)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("logs", "logs"),
        (["logs"], "logs"),
        (["logs", "content"], "(logs|content)"),
        ("a.b", r"a\\.b"),
        ("$__all", ".*"),
        (["$__all"], ".*"),
    ],
)
def test_a_chosen_value_is_written_as_prometheus_needs_it(value: str | list[str], written: str) -> None:
    assert variables_of(_board(_variable(allValue=".*")), queue=value) == {"queue": written}


def test_the_committed_value_is_taken_unless_one_is_chosen() -> None:
    board = _board(_variable(current={"value": ["logs"]}), {"name": "datasource", "type": "datasource"})
    assert variables_of(board) == {"queue": "logs"}
    assert variables_of(board, queue="content") == {"queue": "content"}


def test_what_cannot_be_chosen_is_said() -> None:
    with pytest.raises(ValueError, match="no variable worker; it has queue"):
        variables_of(_board(_variable()), worker="x")
    with pytest.raises(ValueError, match="queue has no value for All"):
        variables_of(_board(_variable(current={"value": "$__all"})))


def test_variables_are_filled_in_and_nothing_else() -> None:
    text = 'label_replace(x{a=~"$a",b=~"${b}"}[$__range], "c", "$1", "d", "(.+)$")'
    assert filled(text, {"a": "1", "b": "2", "__range": "600s"}) == (
        'label_replace(x{a=~"1",b=~"2"}[600s], "c", "$1", "d", "(.+)$")'
    )
    with pytest.raises(ValueError, match=r"\$c is no variable"):
        filled("$c", {"a": "1"})
    with pytest.raises(ValueError, match="format csv"):
        filled("${a:csv}", {"a": "1"})


@pytest.mark.parametrize(("step", "scrape", "interval"), [(2, 2, "8s"), (60, 15, "75s"), (0.5, 1, "4s")])
def test_the_rate_interval_is_grafanas(step: float, scrape: float, interval: str) -> None:
    variables = Window(start=100, end=700, step=step, scrape_interval=scrape).variables()
    assert variables["__rate_interval"] == interval
    assert (variables["__range"], variables["__range_s"], variables["__range_ms"]) == ("600s", "600", "600000")


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("{{queue_name}} p95", "logs p95"),
        ("{{ queue_name }}", "logs"),
        ("{{absent}} x", "x"),
        ("fixed", "fixed"),
        ("", 'up{job="a", queue_name="logs"}'),
    ],
)
def test_a_legend(form: str, name: str) -> None:
    assert legend_of(form, {"__name__": "up", "queue_name": "logs", "job": "a"}) == name


def test_panels_are_read_with_their_rows() -> None:
    steps = [{"value": None, "color": "green"}, {"value": 0.5, "color": "red"}]
    targets = [
        {"refId": "A", "expr": "up", "instant": True, "format": "table"},
        {"refId": "B", "expr": "x", "hide": True},
    ]
    row = {"id": 7, "type": "row", "title": "Pools", "panels": [_raw(title="inside", id=8)]}
    first = _raw(targets=targets, fieldConfig={"defaults": {"unit": "s", "thresholds": {"steps": steps}}})
    read, inside = panels_of(_board(panels=[first, row, _raw(type="text")]))
    assert (read.row, inside.row, inside.title, inside.number) == ("", "Pools", "inside", 8)
    assert (read.unit, inside.unit) == ("s", "short")
    assert read.thresholds == ((-math.inf, "green"), (0.5, "red"))
    assert read.grid == Grid(1, 2, 3, 4)
    [target] = read.targets
    assert (target.ref_id, target.expression, target.legend, target.instant, target.form) == (
        "A",
        "up",
        "",
        True,
        "table",
    )
    assert len(panels_of(_board(panels=[_raw(type="text")]), without_queries=True)) == 1


@pytest.mark.parametrize(("interval", "step"), [("1m", 60), ("500ms", 2), (">10s", 10), ("", 2)])
def test_a_panel_may_want_its_points_farther_apart(interval: str, step: float) -> None:
    [panel] = panels_of(_board(panels=[_raw(interval=interval)]))
    assert WINDOW.of(panel).step == step
    assert (WINDOW.of(panel).start, WINDOW.of(panel).scrape_interval) == (WINDOW.start, WINDOW.scrape_interval)
    with pytest.raises(ValueError, match="'soon' is no duration"):
        panels_of(_board(panels=[_raw(interval="soon")]))


def test_annotations_are_read() -> None:
    mark = {
        "name": "Worker starts",
        "expr": "x",
        "titleFormat": "{{hostname}}",
        "iconColor": "blue",
        "useValueForTime": True,
    }
    builtin = {"builtIn": 1, "name": "Annotations & Alerts"}
    [read] = annotations_of({**_board(), "annotations": {"list": [builtin, mark]}})
    assert (read.name, read.expression, read.title, read.colour) == ("Worker starts", "x", "{{hostname}}", "blue")
    assert read.by_value
    assert annotations_of(_board()) == []
