"""Asks Prometheus what the panels ask it, and makes a `Recording` of the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import aiohttp

from dashboards.pictures.recording import Mark, Phase, Recording, Series, asked
from dashboards.reading import Annotation, Panel, Window, annotations_of, filled, legend_of, panels_of, variables_of

__all__ = ["Prometheus", "record"]

DIGITS = 3
"""Significant digits that are kept of a value that is drawn."""


class Prometheus:
    """Prometheus' query API at ``url``."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def over(self, expression: str, window: Window) -> list[dict[str, Any]]:
        """A range query; each series has ``metric`` and ``values``.

        Raises:
            ValueError: Prometheus refuses the expression.
        """
        step = {"start": window.start, "end": window.end, "step": window.step}
        return await self._ask("query_range", {"query": expression, **step})

    async def at(self, expression: str, time: float) -> list[dict[str, Any]]:
        """An instant query; each series has ``metric`` and ``value``."""
        return await self._ask("query", {"query": expression, "time": time})

    async def _ask(self, path: str, form: dict[str, Any]) -> list[dict[str, Any]]:
        async with self._session.post(f"{self._url}/api/v1/{path}", data=form) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise ValueError(f"{answer['errorType']}: {answer['error']}: {form['query']}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


async def record(
    boards: Mapping[str, Mapping[str, Any]], prometheus: Prometheus, window: Window, phases: list[Phase]
) -> Recording:
    """The answers to every query of every panel and annotation of the boards."""
    recording = Recording(window, phases, boards, {}, {}, {})
    for name, board in boards.items():
        variables = variables_of(board)
        for panel in panels_of(board):
            await _record_panel(recording, panel, variables, prometheus)
        recording.marks[name] = []
        for annotation in annotations_of(board):
            expression = filled(annotation.expression, {**variables, **window.variables()})
            recording.marks[name] += _marks(annotation, await prometheus.over(expression, window))
    return recording


async def _record_panel(
    recording: Recording, panel: Panel, variables: Mapping[str, str], prometheus: Prometheus
) -> None:
    window = recording.window.of(panel)
    for target in panel.targets:
        expression = filled(target.expression, {**variables, **window.variables()})
        if target.instant:
            recording.instants[expression] = [_at(raw) for raw in await prometheus.at(expression, window.end)]
        else:
            said = await prometheus.over(expression, window)
            recording.answers[asked(expression, window)] = [_over(raw, window) for raw in said]


def _over(raw: Mapping[str, Any], window: Window) -> Series:
    steps = math.floor((window.end - window.start) / window.step + 1e-6) + 1
    values: list[float | None] = [None] * steps
    for time, value in raw["values"]:
        values[round((time - window.start) / window.step)] = _number(value, DIGITS)
    return Series(raw["metric"], values)


def _at(raw: Mapping[str, Any]) -> Series:
    return Series(raw["metric"], [_number(raw["value"][1], 12)])


def _number(text: str, digits: int) -> float | None:
    # NaN and the infinities are gaps, in Grafana, too; and JSON has neither.
    value = float(text)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _marks(annotation: Annotation, series: list[dict[str, Any]]) -> list[Mark]:
    """One mark for each value, or for the first sample of each series."""
    found = set()
    for raw in series:
        title = legend_of(annotation.title, raw["metric"])
        times = {float(value) / 1000 for _, value in raw["values"]} if annotation.by_value else {raw["values"][0][0]}
        found |= {Mark(annotation.name, title, annotation.colour, time) for time in times}
    return sorted(found, key=lambda mark: mark.time)
