"""Heat maps: how the observations of a histogram are spread over its buckets, over time."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from dashboards.pictures.canvas import Canvas
from dashboards.pictures.content import Content, Named, defaults
from dashboards.pictures.graph import time_axis
from dashboards.pictures.layout import Box
from dashboards.pictures.units import formatted
from dashboards.reading import Panel

__all__ = ["buckets_of", "draw_heat"]


def draw_heat(canvas: Canvas, panel: Panel, content: Content, box: Box) -> int:
    """Draws the buckets up to the highest that something fell into; returns how many buckets there are."""
    bounds, counts = buckets_of(content.named(panel))
    axes = canvas.axes(Box(box.left + 56, box.top, box.width - 62, box.height - 18))
    time_axis(canvas, axes, content)
    if not counts.size or not np.nansum(counts):
        empty = defaults(panel).get("noValue") or "No data"
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color=canvas.theme.faint)
        axes.set_yticks([])
        return len(bounds)
    used = 1 + max(int(row) for row in np.nonzero(np.nansum(counts, axis=1))[0])
    unit = ((panel.raw.get("options") or {}).get("yAxis") or {}).get("unit") or "short"
    shades = LinearSegmentedColormap.from_list("heat", canvas.theme.heat)
    times = np.arange(counts.shape[1] + 1) * content.window.of(panel).step
    # Square roots: a single slow one is to be seen beside a thousand quick ones.
    axes.pcolormesh(
        times, np.arange(used + 1), np.where(counts[:used] > 0, counts[:used], np.nan), cmap=shades,
        norm=PowerNorm(0.4, 0, float(np.nanmax(counts))), zorder=2, linewidth=0, rasterized=True,
    )  # fmt: skip
    axes.set_ylim(0, used)
    axes.set_xlim(0, content.window.end - content.window.start)
    axes.set_yticks(np.arange(used) + 0.5, [_bound(bound, unit) for bound in bounds[:used]])
    return len(bounds)


def buckets_of(series: list[Named]) -> tuple[list[float], np.ndarray]:
    """The upper bounds, and the observations of each bucket alone: Prometheus' contain those below."""
    by_bound = {float(one.series.labels["le"]): one.series.values for one in series}
    bounds = sorted(by_bound)
    cumulative = np.array([[np.nan if v is None else v for v in by_bound[bound]] for bound in bounds], dtype=float)
    if not bounds:
        return [], cumulative
    return bounds, np.maximum(np.diff(cumulative, axis=0, prepend=0.0), 0)


def _bound(bound: float, unit: str) -> str:
    return "more" if bound == float("inf") else formatted(bound, unit)
