"""Lines and bars over time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dashboards.pictures.canvas import Canvas, nice_top
from dashboards.pictures.content import Content, Named, defaults
from dashboards.pictures.layout import Box
from dashboards.pictures.units import formatted
from dashboards.reading import Panel

__all__ = ["Colours", "draw_graph", "time_axis"]

LEGEND_SIZE = 10.0
LEGEND_LINE = 15.0
LEGEND_LINES = 2
ALERTS = "Firing alerts"
"""The annotation whose marks are triangles on the axis."""
DASH = (0, (4, 3))


class Colours:
    """The colours of a picture's series: one name has one colour in all of its panels, as far as there are enough."""

    def __init__(self, theme_cycle: Sequence[str]) -> None:
        self._cycle = theme_cycle
        self._known: dict[str, str] = {}

    def of(self, names: Sequence[str]) -> dict[str, str]:
        """A colour for each name of one panel."""
        chosen = {name: self._known[name] for name in names if name in self._known}
        free = cycle([colour for colour in self._cycle if colour not in chosen.values()] or self._cycle)
        for name in names:
            if name not in chosen:
                chosen[name] = self._known.setdefault(name, next(free))
        return chosen


def draw_graph(canvas: Canvas, panel: Panel, content: Content, box: Box, colours: Colours) -> int:
    """Draws the panel's lines, and returns how many."""
    series = sorted(content.named(panel), key=_highest, reverse=True)
    colour_of = colours.of(list(dict.fromkeys(one.name for one in series)))
    bottom = _draw_legend(canvas, box, colour_of)
    custom = defaults(panel).get("custom") or {}
    axes = canvas.axes(Box(box.left + 46, box.top, box.width - 52, bottom - box.top - 18))
    time_axis(canvas, axes, content)
    top = _draw_series(axes, series, colour_of, custom, content.window.of(panel).step)
    top = max(top, custom.get("axisSoftMax") or 0)
    axes.set_ylim(0, nice_top(top))
    _name_values(axes, panel, whole=all(_is_whole(one) for one in series))
    axes.grid(axis="y", color=canvas.theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    if (custom.get("thresholdsStyle") or {}).get("mode", "off") != "off":
        for bound, word in panel.thresholds[1:]:
            axes.axhline(bound, color=canvas.theme.words[word], linewidth=1.1, linestyle=DASH)
    if not series:
        empty = defaults(panel).get("noValue") or "No data"
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color=canvas.theme.faint)
    return len(series)


def time_axis(canvas: Canvas, axes: Axes, content: Content) -> None:
    """Minutes since the beginning; the last phase is shaded, and the annotations stand where they belong."""
    start, end = content.window.start, content.window.end
    axes.set_xlim(0, end - start)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 1.2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds // 60:.0f}:{seconds % 60:02.0f}"))
    last = content.phases[-1]
    axes.axvspan(last.start - start, last.end - start, color=canvas.theme.shade, linewidth=0, zorder=0)
    for mark in (mark for mark in content.marks if start <= mark.time <= end):
        colour = canvas.theme.words[mark.colour]
        if mark.name == ALERTS:
            # Many: lines would hide what they are about.
            upper = axes.get_xaxis_transform()
            axes.plot(
                [mark.time - start], [1], "v", color=colour, markersize=6, transform=upper, clip_on=False, zorder=50
            )
        else:
            axes.axvline(mark.time - start, color=colour, linewidth=0.9, linestyle=DASH)


def _name_values(axes: Axes, panel: Panel, *, whole: bool) -> None:
    top = axes.get_ylim()[1]
    ticks = [tick for tick in MaxNLocator(4, integer=whole).tick_values(0, top) if tick <= top]
    lowest = axes.set_yticks(ticks, [formatted(tick, panel.unit) for tick in ticks])[0]
    # Its lower half would stand in the first minute's name.
    lowest.label1.set_verticalalignment("bottom")


def _is_whole(one: Named) -> bool:
    return all(value is None or value == int(value) for value in one.series.values)


def _highest(one: Named) -> float:
    return max((value for value in one.series.values if value is not None), default=0.0)


def _draw_series(
    axes: Axes, series: Sequence[Named], colour_of: dict[str, str], custom: dict[str, object], step: float
) -> float:
    """Returns the highest point."""
    stacked = isinstance(stacking := custom.get("stacking"), dict) and stacking.get("mode") == "normal"
    below: np.ndarray | float = 0.0
    top = 0.0
    for order, one in enumerate(series):
        values = np.array([np.nan if value is None else value for value in one.series.values])
        times = np.arange(len(values)) * step
        colour = colour_of[one.name]
        zorder = 3 + len(series) - order
        if custom.get("drawStyle") == "bars":
            # Each as wide as its step; a single one between two gaps is a bar, too.
            top_of = np.nan_to_num(values) + below
            axes.fill_between(times, below, top_of, step="mid", color=colour, linewidth=0, zorder=zorder)
        else:
            axes.plot(times, values + below, color=colour, linewidth=1.5, zorder=zorder, solid_joinstyle="round")
            if stacked:
                axes.fill_between(times, below, values + below, color=colour, alpha=0.3, linewidth=0)
        top = max(top, float(np.nanmax(values + below, initial=0.0)))
        if stacked:
            below = below + np.nan_to_num(values)
    return top


def _draw_legend(canvas: Canvas, box: Box, colour_of: dict[str, str]) -> float:
    """Below the plot, in two lines at most; returns where it begins."""
    lines, left_out = _legend_lines(canvas, list(colour_of), box.width - 8)
    top = box.bottom - LEGEND_LINE * max(len(lines), 1)
    for number, line in enumerate(lines):
        y = top + LEGEND_LINE * (number + 0.5)
        x = box.left + 6
        for name in line:
            canvas.line(x, y, 12, colour_of[name])
            text = canvas.fitting(name, LEGEND_SIZE, box.width - 40)
            canvas.text(x + 16, y, text, size=LEGEND_SIZE, colour=canvas.theme.faint, vertical="center_baseline")
            x += 16 + canvas.width_of(text, LEGEND_SIZE) + 12
        if left_out and number == len(lines) - 1:
            more = f"+{left_out}"
            canvas.text(x, y, more, size=LEGEND_SIZE, colour=canvas.theme.faint, vertical="center_baseline")
    return top


def _legend_lines(canvas: Canvas, names: Sequence[str], width: float) -> tuple[list[list[str]], int]:
    lines: list[list[str]] = []
    free = 0.0
    for position, name in enumerate(names):
        needed = 28 + canvas.width_of(name, LEGEND_SIZE)
        if needed > free or not lines:
            if len(lines) == LEGEND_LINES:
                return lines, len(names) - position
            lines.append([])
            # Room for how many were left out.
            free = width - (24 if len(lines) == LEGEND_LINES else 0)
        lines[-1].append(name)
        free -= needed
    return lines, 0
