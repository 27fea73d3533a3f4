"""Which panels the pictures show: of each dashboard those that tell the disease from the cure at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards.pictures.draw import Picture
from dashboards.reading import panels_of

__all__ = ["PICTURES", "boards_of"]

PICTURES: Mapping[str, Picture] = {
    "overview": Picture(
        "overview",
        left_out=("Oldest waiting task, by queue", "Monitors and workers"),
    ),
    "loop-conflicts": Picture(
        "loop-conflicts",
        left_out=(
            "Engines of closed loops",
            "Engines made",
            "Engines disposed of, by reason",
            "Loops beyond the plan",
            "Loop lag, 99th percentile",
            "Longest lag of the last minute",
            "Stalls",
            "Longest running task",
        ),
    ),
    "pools": Picture("pools"),
    "tasks": Picture("tasks"),
}
"""File names, without the theme, and what is in them."""

KEPT = ("title", "templating", "annotations")


def boards_of(boards: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the dashboards what the pictures show: a recording holds no more than is drawn.

    Raises:
        ValueError: a dashboard has no panel of a title that is chosen.
    """
    kept = {}
    for picture in PICTURES.values():
        board = boards[picture.board]
        panels = [dict(panel.raw) for panel in picture.panels(panels_of(board))]
        kept[picture.board] = {**{name: board.get(name) for name in KEPT}, "panels": panels}
    return kept
