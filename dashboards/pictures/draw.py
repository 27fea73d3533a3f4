"""One picture: panels of a dashboard, in one theme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dashboards.pictures.canvas import Canvas
from dashboards.pictures.content import Content
from dashboards.pictures.graph import Colours, draw_graph
from dashboards.pictures.heat import draw_heat
from dashboards.pictures.layout import COLUMN, COLUMNS, GAP, Box, Placed, arranged
from dashboards.pictures.numbers import draw_dial, draw_levels, draw_tile
from dashboards.pictures.recording import Recording
from dashboards.pictures.table import draw_table
from dashboards.pictures.theme import Theme
from dashboards.reading import Panel, panels_of

__all__ = ["Picture", "draw"]

Drawer = Callable[[Canvas, Panel, Content, Box], int]

WIDTH = COLUMN * COLUMNS
HEADER = 52.0
NARROW = 200.0
"""Pixels: a panel that is less wide is a tile."""
MARKS = {"Worker starts": ("┆", "a worker starts"), "Firing alerts": ("▼", "an alert begins to fire")}


class Picture:
    """Panels of a dashboard, by their titles."""

    def __init__(self, board: str, *titles: str) -> None:
        self.board = board
        self.titles = titles

    def panels(self, panels: Sequence[Panel]) -> list[Panel]:
        """Those that are shown, in the order of the titles.

        Raises:
            ValueError: there is no panel of a title.
        """
        by_title = {panel.title: panel for panel in panels}
        if unknown := [title for title in self.titles if title not in by_title]:
            raise ValueError(f"{self.board} has no panel {'; '.join(unknown)}. It has: {'; '.join(by_title)}")
        return [by_title[title] for title in self.titles]


def draw(recording: Recording, picture: Picture, theme: Theme) -> tuple[Canvas, dict[str, int]]:
    """The picture, and how many series (or rows) each panel shows, by title.

    Raises:
        ValueError: the dashboard has no such panel, or its kind cannot be drawn.
    """
    board = recording.boards[picture.board]
    content = Content(recording, picture.board)
    placed = arranged(picture.panels(panels_of(board)), top=HEADER)
    canvas = Canvas(WIDTH, placed[-1].box.bottom + GAP / 2, theme)
    _draw_header(canvas, board["title"], content)
    drawers = _drawers(theme)
    counts: dict[str, int] = {}
    for one in placed:
        if one.panel.kind not in drawers:
            raise ValueError(f"a panel of the kind {one.panel.kind} cannot be drawn: {one.panel.title}")
        inner = _draw_frame(canvas, one)
        counts[one.panel.title] = drawers[one.panel.kind](canvas, one.panel, content, inner)
    return canvas, counts


def _drawers(theme: Theme) -> Mapping[str, Drawer]:
    return {
        "timeseries": partial(draw_graph, colours=Colours(theme.cycle)),
        "stat": draw_tile,
        "gauge": draw_dial,
        "bargauge": draw_levels,
        "table": draw_table,
        "heatmap": draw_heat,
    }


def _draw_header(canvas: Canvas, title: str, content: Content) -> None:
    """The title, and what the pictures' colours and marks mean."""
    canvas.text(GAP, 15, title, size=16, bold=True, vertical="center_baseline")
    first, last = (f"APP_RESOURCES={phase.setting}" for phase in content.phases)
    theme = canvas.theme
    x = GAP
    for colour, text in ((theme.card, first), (theme.shade, f"{last}, the same traffic")):
        canvas.box(Box(x, 33, 22, 12), colour, edge=theme.border)
        x = _explain(canvas, x + 28, text)
    for mark in {mark.name: mark for mark in content.marks}.values():
        sign, text = MARKS[mark.name]
        canvas.text(x, 39, sign, size=11, colour=theme.words[mark.colour], vertical="center_baseline")
        x = _explain(canvas, x + 16, text)


def _explain(canvas: Canvas, x: float, text: str) -> float:
    """Returns where the next one may begin."""
    canvas.text(x, 39, text, size=11, colour=canvas.theme.faint, vertical="center_baseline")
    return x + canvas.width_of(text, 11) + 20


def _draw_frame(canvas: Canvas, placed: Placed) -> Box:
    """The card and its title; returns what is left for the content."""
    box, panel = placed.box, placed.panel
    canvas.box(box, canvas.theme.card, edge=canvas.theme.border)
    # A tile's title is longer than it is wide.
    size, bold = (10.5, False) if box.width < NARROW else (11.5, True)
    title = canvas.wrapped(panel.title, size, box.width - 16, bold=bold)
    canvas.text(box.left + 7, box.top + 6, title, size=size, bold=bold)
    height = 10 + 1.3 * size * (1 + title.count("\n"))
    return Box(box.left + 3, box.top + height, box.width - 6, box.height - height - 4)
