"""Numbers of now: a tile (stat), a dial (gauge), bars (bargauge)."""

from __future__ import annotations

from matplotlib.patches import Wedge

from dashboards.pictures.canvas import Canvas
from dashboards.pictures.content import Content, Named, Steps, defaults, overrides, steps_in
from dashboards.pictures.layout import Box
from dashboards.pictures.units import formatted
from dashboards.reading import Panel

__all__ = ["draw_dial", "draw_levels", "draw_tile", "word_of"]


def draw_tile(canvas: Canvas, panel: Panel, content: Content, box: Box) -> int:
    """A number for each query, on the colour of its threshold; returns how many."""
    series = content.named(panel)
    shown = [(one.name, _text(panel, one), _colour(panel, one)) for one in series]
    if not shown:
        shown = [("", _empty(panel), panel.thresholds[0][1])]
    width = box.width / len(shown)
    for index, (name, text, word) in enumerate(shown):
        canvas.box(Box(box.left + index * width, box.top, width, box.height), canvas.theme.words[word])
        colour = canvas.theme.on_word[word]
        middle, centre = box.left + (index + 0.5) * width, box.top + box.height / 2
        size = next((size for size in (26, 22, 18, 15) if canvas.width_of(text, size, bold=True) < width - 8), 12)
        named = len(shown) > 1
        label = canvas.wrapped(name, 9.5, width - 4)
        raised = (4 + 5 * (1 + label.count("\n"))) * named
        canvas.text(
            middle, centre - raised, text, size=size, colour=colour, bold=True, align="center", vertical="center"
        )
        if named:
            canvas.text(middle, box.bottom - 5, label, size=9.5, colour=colour, align="center", vertical="bottom")
    return len(series)


def draw_dial(canvas: Canvas, panel: Panel, content: Content, box: Box) -> int:
    """How much of its maximum the first series has."""
    series = content.named(panel)
    axes = canvas.axes(box)
    axes.set_axis_off()
    axes.set_xlim(-box.width / box.height, box.width / box.height)
    axes.set_ylim(-0.35, 1.2)
    axes.set_aspect("equal")
    axes.add_patch(Wedge((0, 0), 1.05, 0, 180, width=0.28, color=canvas.theme.border))
    text, word = _empty(panel), panel.thresholds[0][1]
    if series and (share := series[0].series.last) is not None:
        text, word = _text(panel, series[0]), _colour(panel, series[0])
        axes.add_patch(Wedge((0, 0), 1.05, 180 - 180 * min(share, 1), 180, width=0.28, color=canvas.theme.words[word]))
    middle, low = box.left + box.width / 2, box.bottom - box.height * 0.12
    canvas.text(middle, low, text, size=20, bold=True, align="center", vertical="bottom")
    return len(series)


def draw_levels(canvas: Canvas, panel: Panel, content: Content, box: Box) -> int:
    """A bar for each series."""
    series = content.named(panel)
    height = box.height / max(len(series), 1)
    for index, one in enumerate(series):
        value = one.series.last
        top = box.top + index * height
        colour = canvas.theme.words[_colour(panel, one)]
        room = box.width - 62
        canvas.text(box.left + 4, top + 2, canvas.fitting(one.name, 10, room), size=10, colour=canvas.theme.faint)
        bar = Box(box.left + 4, top + 17, room, min(max(height - 24, 6), 18))
        canvas.box(bar, canvas.theme.border)
        if value:
            canvas.box(Box(bar.left, bar.top, bar.width * min(value, 1), bar.height), colour)
        middle = bar.top + bar.height / 2
        canvas.text(
            box.right - 4, middle, _text(panel, one), size=13, bold=True, align="right", vertical="center_baseline"
        )
    if not series:
        canvas.text(box.left + box.width / 2, box.top + box.height / 2, _empty(panel), align="center")
    return len(series)


def word_of(value: float, steps: Steps) -> str:
    """The colour's name for the value: that of the highest bound it reaches."""
    return [word for bound, word in steps if value >= bound][-1]


def _colour(panel: Panel, one: Named) -> str:
    value = one.series.last
    steps = steps_in(overrides(panel, query=one.ref_id)) or panel.thresholds
    return steps[0][1] if value is None else word_of(value, steps)


def _text(panel: Panel, one: Named) -> str:
    value = one.series.last
    return _empty(panel) if value is None else formatted(value, panel.unit, defaults(panel).get("decimals"))


def _empty(panel: Panel) -> str:
    return str(defaults(panel).get("noValue") or "No data")
