"""Which panels the pictures show: of each dashboard those that tell the disease from the cure at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards.pictures.draw import Picture
from dashboards.reading import Panel, panels_of

__all__ = ["PICTURES", "boards_of"]

PICTURES: Mapping[str, Picture] = {
    "overview": Picture(
        "overview",
        "Alerts that fire",
        "Loop conflicts, last 10 min",
        "Fullest pool of a process",
        "Wait for a connection p95",
        "Failed tasks, worst queue",
        "Failed notifications",
        "Oldest waiting task",
        "Queues without a worker",
        "Workers up and lost",
        "Workers hardly seen",
        "Longest loop lag",
        "Monitors up",
        "Firing alerts",
        "Connections of the databases",
        "Loop conflicts by queue",
        "Fullest pool of a process, by queue of its worker",
        "Failed tasks, share by queue",
        "Failed notifications, share by reason",
    ),
    "loop-conflicts": Picture(
        "loop-conflicts",
        "Loop conflicts, last 10 min",
        "Conflicts per task, worst queue",
        "Engines too many",
        "Lag of loops, 99th percentile",
        "Conflicts by queue",
        "Conflicts by resource and kind",
        "Conflicts by task",
        "Time since the last conflict, by worker",
        "Conflicts per task, by queue",
        "Failed notifications",
        "Engines above loops, by process",
        "Engines and loops, by worker",
    ),
    "pools": Picture(
        "pools",
        "Fullest process",
        "Wait for a connection p95",
        "Tasks that wait",
        "Timeouts, last 10 min",
        "Longest held connection",
        "Potential of the database",
        "Used of maximum, by queue",
        "Peak of maximum, by worker",
        "Wait for a connection, by queue",
        "Connections made and invalidated",
        "Waits for a connection",
        "Time a connection is held",
        "Who pays: time waited a use, by task",
    ),
    "tasks": Picture(
        "tasks",
        "Tasks started",
        "Failed tasks, worst task",
        "Tasks that wait in queues",
        "Longest time to drain",
        "Queues without a worker",
        "Workers up and lost",
        "Tasks sent and started, by queue",
        "Tasks that ended, by outcome",
        "Failed tasks, share by task",
        "Failures by exception",
        "Runtime, 95th percentile by task",
        "Queue length",
    ),
}
"""File names, without the theme, and what is in them."""

LEFT_OUT = {"datasource", "description", "links", "repeatDirection", "transparent"}
WITH_OPTIONS = {"table", "heatmap"}
VARIABLE = {"name", "type", "multi", "current", "allValue", "query"}


def boards_of(boards: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the dashboards what the pictures show: a recording holds no more than is drawn.

    Raises:
        ValueError: a dashboard has no panel of a title that is chosen.
    """
    return {picture.board: _kept(boards[picture.board], picture) for picture in PICTURES.values()}


def _kept(board: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    variables = [{k: v for k, v in raw.items() if k in VARIABLE} for raw in board["templating"]["list"]]
    return {
        "title": board["title"],
        "templating": {"list": variables},
        "annotations": board["annotations"],
        "panels": [_drawn(panel) for panel in picture.panels(panels_of(board))],
    }


def _drawn(panel: Panel) -> dict[str, Any]:
    """What is drawn of a panel, or asked for it."""
    left_out = LEFT_OUT if panel.kind in WITH_OPTIONS else {*LEFT_OUT, "options"}
    targets = [{key: value for key, value in target.items() if key not in LEFT_OUT} for target in panel.raw["targets"]]
    return {key: value for key, value in panel.raw.items() if key not in left_out} | {"targets": targets}
