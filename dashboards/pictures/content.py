"""What a panel shows: its series by name, taken from a recording."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from dashboards.pictures.recording import Recording, Series, asked
from dashboards.reading import Panel, Target, Window, filled, legend_of, variables_of

__all__ = ["Content", "Named", "Steps", "defaults", "overrides", "steps_in"]

Steps: TypeAlias = Sequence[tuple[float, str]]
"""Thresholds: lower bounds, ascending, and the colours from there on."""


@dataclass(frozen=True)
class Named:
    """A series, what it is called, and the letter of its query."""

    name: str
    ref_id: str
    series: Series


class Content:
    """The answers to a dashboard's queries.

    Args:
        recording: what Prometheus said.
        board: the dashboard's name.
    """

    def __init__(self, recording: Recording, board: str) -> None:
        self.window, self.phases = recording.window, recording.phases
        self.marks = recording.marks[board]
        self._recording = recording
        self._variables = variables_of(recording.boards[board])

    def named(self, panel: Panel) -> list[Named]:
        """The panel's series, in the order of its queries."""
        return list(self._named(panel))

    def _named(self, panel: Panel) -> Iterator[Named]:
        window = self.window.of(panel)
        for target in panel.targets:
            for series in self._answer(target, window):
                # As Grafana: a name that is made of labels that are not there is the value's.
                yield Named(legend_of(target.legend, series.labels) or "Value", target.ref_id, series)

    def _answer(self, target: Target, window: Window) -> Sequence[Series]:
        expression = filled(target.expression, {**self._variables, **window.variables()})
        if target.instant:
            return self._recording.instants[expression]
        return self._recording.answers[asked(expression, window)]


def defaults(panel: Panel) -> Mapping[str, Any]:
    """The panel's field options."""
    return (panel.raw.get("fieldConfig") or {}).get("defaults") or {}


def overrides(panel: Panel, *, query: str = "", field: str = "") -> dict[str, Any]:
    """The field options that one query (its letter) or one field (its name) has for itself."""
    matchers = ({"id": "byFrameRefID", "options": query}, {"id": "byName", "options": field})
    listed = (panel.raw.get("fieldConfig") or {}).get("overrides") or ()
    matching = (one for one in listed if one["matcher"] in matchers)
    return {option["id"]: option["value"] for one in matching for option in one["properties"]}


def steps_in(options: Mapping[str, Any]) -> Steps:
    """The thresholds among field options; empty where there are none."""
    steps = (options.get("thresholds") or {}).get("steps") or ()
    return [(-math.inf if step.get("value") is None else step["value"], step["color"]) for step in steps]
