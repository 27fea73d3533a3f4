"""Prometheus asked by its HTTP API, as Grafana and an operator's tools ask it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

__all__ = ["Prometheus", "QueryError", "Series"]


class QueryError(AssertionError):
    """Prometheus refused a query; the message is its own."""


@dataclass(frozen=True)
class Series:
    """One series of an answer: its labels, and its samples as (Unix time, value)."""

    labels: dict[str, str]
    samples: list[tuple[float, float]]


class Prometheus:
    """One server, by its address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str, *, time: float | None = None) -> list[Series]:
        """The expression's series at one moment, now by default; a scalar is a series without labels."""
        data = self._api("query", query=expression, **({} if time is None else {"time": time}))
        if data["resultType"] == "scalar":
            return [Series({}, _samples([data["result"]]))]
        return [Series(one["metric"], _samples([one["value"]])) for one in data["result"]]

    def query_range(self, expression: str, *, start: float, end: float, step: float) -> list[Series]:
        """The expression's series over a time, a sample each ``step`` seconds."""
        data = self._api("query_range", query=expression, start=start, end=end, step=step)
        return [Series(one["metric"], _samples(one["values"])) for one in data["result"]]

    def series(self, selector: str) -> list[dict[str, str]]:
        """The label sets that a selector has ever matched."""
        found: list[dict[str, str]] = self._api("series", **{"match[]": selector})
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing now."""
        found: list[dict[str, Any]] = self._api("alerts")["alerts"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health and its last error."""
        return [rule for group in self._api("rules")["groups"] for rule in group["rules"]]

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, with ``labels`` and ``health``."""
        found: list[dict[str, Any]] = self._api("targets")["activeTargets"]
        return found

    def alertmanagers(self) -> list[str]:
        """The addresses to which it sends alerts."""
        return [one["url"] for one in self._api("alertmanagers")["activeAlertmanagers"]]

    def _api(self, what: str, **parameters: Any) -> Any:
        url = f"{self.url}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            with refused:
                raise QueryError(f"{json.load(refused)['error']}: {parameters}") from None


def _samples(values: Iterable[tuple[float, str]]) -> list[tuple[float, float]]:
    return [(time, float(value)) for time, value in values]
