"""Prometheus' text format, written over label texts that were rendered when their series were born.

prometheus_client renders 100,000 series in a second; joining ready-made texts takes a fraction of that, and a scrape
must not slow the intake down. The number format and ``le`` are prometheus_client's (``5.0``), as Celery dashboards
select buckets by it. ``_created`` is never written: Prometheus would store each counter twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client.utils import floatToGoString

from loopwatch.telemetry.catalogue import CELERY_PREFIX, Metric
from loopwatch_monitor.state.samples import Sample

__all__ = ["CONTENT_TYPE", "Renderer"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Renderer:
    """Renders families.

    Args:
        celery_prefix: stands in for ``celery_`` in the names of Celery's own metrics.
        buckets: upper bounds of histograms that differ from the catalogue's.
    """

    def __init__(
        self, *, celery_prefix: str = CELERY_PREFIX, buckets: Mapping[Metric, tuple[float, ...]] | None = None
    ) -> None:
        self._celery_prefix = celery_prefix
        self._buckets = buckets or {}

    def family(self, metric: Metric, samples: Iterable[Sample]) -> str:
        """The family's text, "" when it has no series."""
        name = metric.name
        if metric.origin == "celery":
            name = self._celery_prefix + name.removeprefix(CELERY_PREFIX)
        lines = self._histogram(name, metric, samples) if metric.kind == "histogram" else _plain(name, samples)
        if not lines:
            return ""
        text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
        return f"# HELP {name} {text}\n# TYPE {name} {metric.kind}\n{''.join(lines)}"

    def _histogram(self, name: str, metric: Metric, samples: Iterable[Sample]) -> list[str]:
        bounds = self._buckets.get(metric, metric.buckets)
        ends = [f'le="{_bound(bound)}"}} ' for bound in (*bounds, float("inf"))]
        lines: list[str] = []
        for labels, value in samples:
            assert isinstance(value, list)
            total = 0.0
            head = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
            for end, total in zip(ends, accumulate(value[:-1]), strict=True):
                lines.append(f"{head}{end}{total}\n")
            braced = f"{{{labels}}}" if labels else ""
            lines.append(f"{name}_count{braced} {total}\n{name}_sum{braced} {value[-1]}\n")
        return lines


def _bound(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def _plain(name: str, samples: Iterable[Sample]) -> list[str]:
    return [f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n" for labels, value in samples]
