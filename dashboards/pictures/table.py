"""Tables: a row for each set of labels that the panel's instant queries answer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.pictures.canvas import Canvas
from dashboards.pictures.content import Content, Named, defaults, overrides, steps_in
from dashboards.pictures.layout import Box
from dashboards.pictures.numbers import word_of
from dashboards.pictures.units import formatted
from dashboards.reading import Panel

__all__ = ["Cell", "draw_table", "rows_of"]

SIZE = 10.0
LINE = 18.0
PADDING = 9.0


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, the colour's name if it has one, and whether that is the background's."""

    text: str
    word: str = ""
    filled: bool = False


Row = Mapping[str, Cell]


def draw_table(canvas: Canvas, panel: Panel, content: Content, box: Box) -> int:
    """Draws as many rows as there is room for, and returns how many there are."""
    rows = rows_of(panel, content.named(panel))
    if not rows:
        empty = str(defaults(panel).get("noValue") or "No data")
        middle, centre = box.left + box.width / 2, box.top + box.height / 2
        canvas.text(middle, centre, empty, colour=canvas.theme.faint, align="center", vertical="center")
        return 0
    # A column that is empty, or is there to be clicked on, says nothing here, and the others need its room.
    linked = {heading for heading in rows[0] if "links" in overrides(panel, field=heading)}
    headings = [heading for heading in rows[0] if heading not in linked and any(row[heading].text for row in rows)]
    fitting = max(int(box.height / LINE) - 1, 1)
    shown = rows[:fitting] if len(rows) <= fitting else rows[: fitting - 1]
    widths = _widths(canvas, headings, shown, box.width)
    for number, row in enumerate([{heading: Cell(heading) for heading in headings}, *shown]):
        top = box.top + number * LINE
        canvas.box(Box(box.left, top + LINE - 0.5, box.width, 0.5), canvas.theme.border)
        left = box.left
        for heading, width in zip(headings, widths, strict=True):
            _draw_cell(canvas, row[heading], Box(left, top, width, LINE), bold=not number)
            left += width
    if len(shown) < len(rows):
        top = box.top + (len(shown) + 1) * LINE + 3
        more = f"{len(rows) - len(shown)} more"
        canvas.text(box.left + PADDING / 2, top, more, size=SIZE, colour=canvas.theme.faint)
    return len(rows)


def rows_of(panel: Panel, series: Sequence[Named]) -> list[Row]:
    """The table's rows as Grafana's transformations make them: merged by labels, renamed, arranged, sorted."""
    merged: dict[frozenset[tuple[str, str]], dict[str, Any]] = {}
    for one in series:
        labels = {name: value for name, value in one.series.labels.items() if name != "__name__"}
        value = "Value" if len(panel.targets) == 1 else f"Value #{one.ref_id}"
        merged.setdefault(frozenset(labels.items()), {**labels})[value] = one.series.last
    names, excluded, order = _arrangement(panel)
    fields = {name for row in merged.values() for name in row if not excluded.get(name)}
    arranged = sorted(fields, key=lambda name: (order.get(name, len(order)), name))
    raw = [{names.get(name, name): row.get(name) for name in arranged} for row in merged.values()]
    for by in reversed((panel.raw.get("options") or {}).get("sortBy") or ()):
        _sort(raw, by["displayName"], descending=bool(by.get("desc")))
    return [{heading: _cell(panel, heading, value) for heading, value in row.items()} for row in raw]


def _sort(rows: list[dict[str, Any]], heading: str, *, descending: bool) -> None:
    def key(row: Mapping[str, Any]) -> tuple[bool, Any]:
        # What is not there comes last where the highest comes first.
        return row.get(heading) is not None, row.get(heading)

    rows.sort(key=key, reverse=descending)


def _arrangement(panel: Panel) -> tuple[dict[str, str], dict[str, bool], dict[str, int]]:
    """New names, what is left out, and the order."""
    for transformation in panel.raw.get("transformations") or ():
        if transformation["id"] == "organize":
            options = transformation["options"]
            return options.get("renameByName", {}), options.get("excludeByName", {}), options.get("indexByName", {})
    return {}, {}, {}


def _cell(panel: Panel, heading: str, value: Any) -> Cell:
    options = {**defaults(panel), **overrides(panel, field=heading)}
    for mapping in options.get("mappings") or ():
        if mapping["type"] == "value" and str(value) in mapping["options"]:
            found = mapping["options"][str(value)]
            return Cell(found.get("text", str(value)), _word(found.get("color")))
    if value is None or isinstance(value, str):
        return Cell(value or "")
    steps = steps_in(overrides(panel, field=heading))
    return Cell(
        formatted(value, options.get("unit") or panel.unit, options.get("decimals")),
        _word(word_of(value, steps)) if steps else "",
        True,
    )


def _word(colour: str | None) -> str:
    return "" if colour in (None, "text", "transparent") else str(colour)


def _widths(canvas: Canvas, headings: Sequence[str], rows: Sequence[Row], width: float) -> list[float]:
    """As wide as their contents; when that is too wide, the widest give way first."""
    natural = [
        max(canvas.width_of(heading, SIZE, bold=True), *(canvas.width_of(row[heading].text, SIZE) for row in rows))
        + PADDING
        for heading in headings
    ]
    while sum(natural) > width:
        widest = max(range(len(natural)), key=natural.__getitem__)
        natural[widest] -= min(sum(natural) - width, 8)
    spare = (width - sum(natural)) / len(natural)
    return [one + spare for one in natural]


def _draw_cell(canvas: Canvas, cell: Cell, box: Box, *, bold: bool) -> None:
    theme = canvas.theme
    colour = theme.faint if bold else theme.text
    if cell.word and cell.filled:
        canvas.box(Box(box.left, box.top + 0.5, box.width, box.height - 1), theme.words[cell.word])
        colour = theme.on_word[cell.word]
    elif cell.word:
        colour = theme.words[cell.word]
    text = canvas.fitting(cell.text, SIZE, box.width - PADDING / 2, bold=bold)
    middle = box.top + box.height / 2
    canvas.text(box.left + PADDING / 2, middle, text, size=SIZE, colour=colour, bold=bold, vertical="center_baseline")
