"""Reads a dashboard's JSON as Grafana does: its panels, their queries with the variables filled in, their legends.

For whoever asks Prometheus what a panel asks it: the tests that every panel shows something, and the pictures.
Nothing here does any I/O.

>>> target = {"refId": "A", "expr": 'rate(x_total{job=~"$job"}[$__rate_interval])', "legendFormat": "{{queue}}"}
>>> graph = {"id": 1, "type": "timeseries", "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8}, "targets": [target]}
>>> job = {"name": "job", "type": "query", "allValue": ".+", "current": {"value": ["$__all"]}}
>>> board = {"panels": [graph], "templating": {"list": [job]}}
>>> window = Window(start=0, end=600, step=2, scrape_interval=2)
>>> [asked] = panels_of(board)[0].targets
>>> filled(asked.expression, variables_of(board) | window.of(panels_of(board)[0]).variables())
'rate(x_total{job=~".+"}[8s])'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = [
    "Annotation",
    "Grid",
    "Panel",
    "Target",
    "Window",
    "annotations_of",
    "filled",
    "legend_of",
    "panels_of",
    "variables_of",
]

ALL = "$__all"
WITHOUT_QUERIES = frozenset({"row", "text"})

# `$name`, `${name}` and `${name:format}`; not the `$1` of label_replace.
VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|(?P<plain>[A-Za-z_]\w*))")
DURATION = re.compile(r">?(?P<number>[\d.]+)(?P<unit>ms|s|m|h)")
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
LABEL = re.compile(r"\{\{\s*(.+?)\s*\}\}")
REGEX_CHARACTER = re.compile(r"[$^*{}\[\]'+?.()|]")


@dataclass(frozen=True)
class Target:
    """One query of a panel.

    Attributes:
        ref_id: its letter.
        expression: PromQL, the variables still in it.
        legend: the format of its series' names, ``{{label}}`` in it; may be empty.
        instant: asked once, for the window's end; else for all of the window.
        form: ``time_series``, ``table`` or ``heatmap``.
    """

    ref_id: str
    expression: str
    legend: str
    instant: bool
    form: str


@dataclass(frozen=True)
class Grid:
    """Where a panel stands, in Grafana's units: 24 columns, rows of 30 pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """One panel, rows excepted.

    Attributes:
        number: its ``id``, for links.
        kind: ``timeseries``, ``stat``, ``table``, ``heatmap``, ...
        row: the title of the row it stands under; empty above the first.
        unit: Grafana's name of it, such as ``percentunit``.
        thresholds: the lower bounds and their colours; the first bound is minus infinity.
        min_step: seconds that two points of it are apart at least.
        raw: all of its JSON.
    """

    number: int
    kind: str
    title: str
    row: str
    unit: str
    grid: Grid
    targets: tuple[Target, ...]
    thresholds: tuple[tuple[float, str], ...]
    min_step: float
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Annotation:
    """Marks on the time axis of every panel.

    Attributes:
        name: what it is called.
        expression: PromQL.
        title: the format of a mark's title.
        colour: the name of the marks' colour.
        by_value: the value of a sample, in milliseconds, is the mark's time; else the times of the samples are.
    """

    name: str
    expression: str
    title: str
    colour: str
    by_value: bool


@dataclass(frozen=True)
class Window:
    """The time that is looked at, and how finely; all in seconds.

    >>> Window(start=0, end=3600, step=15, scrape_interval=15).variables()["__rate_interval"]
    '60s'
    """

    start: float
    end: float
    step: float
    scrape_interval: float

    def of(self, panel: Panel) -> Window:
        """The window as this panel looks at it, which may want its points farther apart."""
        return replace(self, step=max(self.step, panel.min_step))

    def variables(self) -> dict[str, str]:
        """The variables that Grafana has from the window."""
        seconds = round(self.end - self.start)
        return {
            "__interval": _duration(self.step),
            "__interval_ms": str(round(self.step * 1000)),
            "__rate_interval": _duration(max(self.step + self.scrape_interval, 4 * self.scrape_interval)),
            "__range": f"{seconds}s",
            "__range_s": str(seconds),
            "__range_ms": str(seconds * 1000),
        }


def panels_of(dashboard: Mapping[str, Any], *, without_queries: bool = False) -> list[Panel]:
    """The panels in order, those of collapsed rows included, and text panels if asked for."""
    left_out = {"row"} if without_queries else WITHOUT_QUERIES
    return [_panel(raw, row) for row, raw in _with_rows(dashboard["panels"]) if raw["type"] not in left_out]


def annotations_of(dashboard: Mapping[str, Any]) -> list[Annotation]:
    """The annotations that are queries."""
    return [
        Annotation(
            raw["name"],
            _expression(raw),
            raw.get("titleFormat", ""),
            raw.get("iconColor", "red"),
            bool(raw.get("useValueForTime")),
        )
        for raw in (dashboard.get("annotations") or {}).get("list") or []
        if _expression(raw)
    ]


def variables_of(dashboard: Mapping[str, Any], **chosen: str | Sequence[str]) -> dict[str, str]:
    """What stands for each of the dashboard's variables, as it is committed, or with these values ``chosen``.

    Raises:
        ValueError: no such variable; or "All" is selected and has no value of its own, so that only Prometheus knows.

    >>> variables_of({"templating": {"list": [{"name": "queue", "type": "query", "multi": True}]}}, queue=["a", "b.c"])
    {'queue': '(a|b\\\\\\\\.c)'}
    """
    listed = {raw["name"]: raw for raw in dashboard["templating"]["list"] if raw["type"] != "datasource"}
    unknown = set(chosen) - set(listed)
    if unknown:
        raise ValueError(f"the dashboard has no variable {', '.join(sorted(unknown))}; it has {', '.join(listed)}")
    return {name: _value_of(raw, chosen.get(name)) for name, raw in listed.items()}


def filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with ``$name`` and ``${name}`` filled in.

    Raises:
        ValueError: a variable that is not among them, or a format (``${name:csv}``) that this does not know.

    >>> filled('up{job=~"$job"}[${__range_s}s]', {"job": "a|b", "__range_s": "60"})
    'up{job=~"a|b"}[60s]'
    """

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        if name not in variables:
            raise ValueError(f"{match[0]} is no variable of the dashboard: {text}")
        if match["format"] not in (None, "raw"):
            raise ValueError(f"{match[0]}: the format {match['format']} is not known here: {text}")
        return variables[name]

    return VARIABLE.sub(value, text)


def legend_of(form: str, labels: Mapping[str, str]) -> str:
    """How a series is called; without a format by its labels, as Prometheus writes them.

    >>> legend_of("{{hostname}} {{pool}}", {"hostname": "logs@a", "pool": "app"})
    'logs@a app'
    """
    if not form:
        named = (f'{name}="{value}"' for name, value in sorted(labels.items()) if name != "__name__")
        return f"{labels.get('__name__', '')}{{{', '.join(named)}}}"
    return LABEL.sub(lambda match: labels.get(match[1], ""), form).strip()


def _with_rows(panels: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    row = ""
    for raw in panels:
        row = raw["title"] if raw["type"] == "row" else row
        yield row, raw
        yield from ((row, inner) for inner in raw.get("panels") or ())


def _panel(raw: Mapping[str, Any], row: str) -> Panel:
    defaults = (raw.get("fieldConfig") or {}).get("defaults") or {}
    steps = (defaults.get("thresholds") or {}).get("steps") or []
    place = raw["gridPos"]
    return Panel(
        number=raw["id"],
        kind=raw["type"],
        title=raw.get("title") or "",
        row=row,
        unit=defaults.get("unit") or "short",
        grid=Grid(place["x"], place["y"], place["w"], place["h"]),
        targets=tuple(_target(target) for target in raw.get("targets") or () if not target.get("hide")),
        min_step=_seconds(raw["interval"]) if raw.get("interval") else 0,
        thresholds=tuple((_bound(step.get("value")), step["color"]) for step in steps),
        raw=raw,
    )


def _target(raw: Mapping[str, Any]) -> Target:
    form = raw.get("format") or "time_series"
    return Target(raw["refId"], raw["expr"], raw.get("legendFormat") or "", bool(raw.get("instant")), form)


def _bound(value: float | None) -> float:
    return float("-inf") if value is None else value


def _expression(annotation: Mapping[str, Any]) -> str:
    return annotation.get("expr") or (annotation.get("target") or {}).get("expr") or ""


def _value_of(raw: Mapping[str, Any], chosen: str | Sequence[str] | None) -> str:
    if raw["type"] == "constant":
        return str(raw["query"])
    value = chosen if chosen is not None else (raw.get("current") or {}).get("value", "")
    values = [value] if isinstance(value, str) else list(value)
    if ALL in values:
        if not raw.get("allValue"):
            raise ValueError(f"the variable {raw['name']} has no value for All: choose one")
        return str(raw["allValue"])
    escaped = [_escaped(value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _escaped(value: str) -> str:
    # Twice: once for the regular expression, once for the quoted string that it stands in.
    return REGEX_CHARACTER.sub(r"\\\\\g<0>", value.replace("\\", r"\\\\"))


def _seconds(duration: str) -> float:
    match = DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"the interval {duration!r} is no duration, such as 1m")
    return float(match["number"]) * UNITS[match["unit"]]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds == round(seconds) else f"{seconds * 1000:.0f}ms"
