"""Where the panels of a picture stand: as on their dashboard, without the gaps of those that were left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.reading import Panel

__all__ = ["Box", "Placed", "arranged"]

COLUMNS = 24
COLUMN = 37.5
ROW = 26.0
GAP = 6.0
"""Pixels: a column's width, a row's height, and what is left free between two panels."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from the top left corner of the picture."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height


@dataclass(frozen=True)
class Placed:
    """A panel and its place."""

    panel: Panel
    box: Box


def arranged(panels: Sequence[Panel], *, top: float = 0) -> list[Placed]:
    """The panels from left to right and from the top down; each line is as wide as the picture."""
    placed: list[Placed] = []
    for line in _lines(panels):
        stretch = COLUMNS / sum(panel.grid.width for panel in line)
        height = max(panel.grid.height for panel in line) * ROW
        left = 0.0
        for panel in line:
            width = panel.grid.width * stretch * COLUMN
            placed.append(Placed(panel, Box(left + GAP / 2, top + GAP / 2, width - GAP, height - GAP)))
            left += width
        top += height
    return placed


def _lines(panels: Sequence[Panel]) -> list[list[Panel]]:
    lines: list[list[Panel]] = []
    free = 0
    for panel in panels:
        if panel.grid.width > free or panel.grid.height != lines[-1][-1].grid.height:
            lines.append([])
            free = COLUMNS
        lines[-1].append(panel)
        free -= panel.grid.width
    return lines
