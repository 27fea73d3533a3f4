"""The exposition formats, written over label texts that were rendered when their series were born.

prometheus_client renders 100,000 series in a second; filling ready-made texts takes a fortieth of that, and a scrape
must not slow the intake down. The number format and ``le`` are prometheus_client's (``5.0``), as Celery dashboards
select buckets by it. ``_created`` is written only where creation times are given: Prometheus, which asks for
OpenMetrics first, would store each counter twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from prometheus_client.utils import floatToGoString

from loopwatch.telemetry.catalogue import CELERY_PREFIX, Metric
from loopwatch_monitor.negotiate import Format
from loopwatch_monitor.state.samples import Sample

__all__ = ["Created", "Renderer"]

Created = Mapping[str, float]
"""Of one family: label text -> when that series began to count, Unix time. One that is missing is not told."""

# Stands for the labels in a histogram's template. What it is replaced by may hold it, as nothing is replaced twice.
_HOLE = "\0"


class Renderer:
    """Renders families: a head, then lines for as many samples at a time as the caller likes.

    Args:
        celery_prefix: stands in for ``celery_`` in the names of Celery's own metrics.
        buckets: upper bounds of histograms that differ from the catalogue's.
    """

    def __init__(
        self, *, celery_prefix: str = CELERY_PREFIX, buckets: Mapping[Metric, tuple[float, ...]] | None = None
    ) -> None:
        self._celery_prefix = celery_prefix
        self._buckets = buckets or {}
        self._templates: dict[tuple[Metric, bool], str] = {}

    def name(self, metric: Metric) -> str:
        """The family's name as exposed."""
        if metric.origin != "celery":
            return metric.name
        return self._celery_prefix + metric.name.removeprefix(CELERY_PREFIX)

    def head(self, metric: Metric, form: Format) -> str:
        """``# HELP`` and ``# TYPE``. OpenMetrics' families of counters are called without ``_total``."""
        name, text = self.name(metric), metric.help.replace("\\", r"\\").replace("\n", r"\n")
        if form is Format.OPENMETRICS:
            name, text = name.removesuffix("_total"), text.replace('"', r"\"")
        return f"# HELP {name} {text}\n# TYPE {name} {metric.kind}\n"

    def lines(self, metric: Metric, samples: Sequence[Sample], created: Created | None = None) -> str:
        """The samples' lines. With ``created``, each series' ``_created`` follows it, as OpenMetrics wants it."""
        if metric.kind == "histogram":
            texts = self._histograms(metric, samples)
        else:
            name = self.name(metric)
            texts = [f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n" for labels, value in samples]
        if created is not None:
            texts = [
                text + self._created(metric, labels, created) for text, (labels, _) in zip(texts, samples, strict=True)
            ]
        return "".join(texts)

    def created_family(self, metric: Metric, samples: Sequence[Sample], created: Created) -> str:
        """The text format has no room for ``_created`` in the family: it is a gauge beside it."""
        name = f"{self.name(metric).removesuffix('_total')}_created"
        lines = "".join(self._created(metric, labels, created) for labels, _ in samples)
        return f"# HELP {name} When these series began to count, Unix time.\n# TYPE {name} gauge\n{lines}"

    def _created(self, metric: Metric, labels: str, created: Created) -> str:
        try:
            seconds = created[labels]
        except KeyError:  # born since they were read: next time
            return ""
        braced = f"{{{labels}}}" if labels else ""
        return f"{self.name(metric).removesuffix('_total')}_created{braced} {seconds}\n"

    def _histograms(self, metric: Metric, samples: Sequence[Sample]) -> list[str]:
        texts = []
        for labels, value in samples:
            assert isinstance(value, list)
            counts = [*accumulate(value[:-1])]
            filled = self._template(metric, bool(labels)) % (*counts, counts[-1], value[-1])
            texts.append(filled.replace(_HOLE, labels))
        return texts

    def _template(self, metric: Metric, labelled: bool) -> str:
        """All lines of one histogram, with ``%s`` for the numbers and a hole for the labels."""
        template = self._templates.get((metric, labelled))
        if template is None:
            name, bounds = self.name(metric), (*self._buckets.get(metric, metric.buckets), float("inf"))
            comma, braced = (f"{_HOLE},", f"{{{_HOLE}}}") if labelled else ("", "")
            lines = [f'{name}_bucket{{{comma}le="{_bound(bound)}"}} %s\n' for bound in bounds]
            template = "".join([*lines, f"{name}_count{braced} %s\n", f"{name}_sum{braced} %s\n"])
            self._templates[metric, labelled] = template
        return template


def _bound(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
