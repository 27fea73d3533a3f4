"""The panels and the frame that every dashboard is built from, so that each follows the conventions by itself.

A panel has a title, a unit, and a description that says what is good and what is bad. A dashboard is read-only, has a
stable ``uid``, the same variables as the others, and links to them and to the runbook.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.queries import Query
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric

__all__ = ["RUNBOOK", "amount", "bars", "heat", "lines", "new_dashboard", "numbered", "rows"]

RUNBOOK = "https://loopwatch.invalid/runbook.md"
"""Where ``runbook.md`` is published: a fleet replaces it here and in the rules by the place that it has for it."""

TAG = "loopwatch"
WIDTH = 12
HEIGHT = 8
DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Steps: TypeAlias = dict[float, str]
"""Thresholds: from this value on, this colour; below the first it is green."""

AnyPanel = TypeVar("AnyPanel", timeseries.Panel, stat.Panel, table.Panel, heatmap.Panel)


def lines(
    title: str, description: str, unit: str, *queries: Query, thresholds: Steps | None = None, stacked: bool = False
) -> timeseries.Panel:
    """Lines over time, the thresholds drawn among them."""
    panel = _described(timeseries.Panel(), title, description, unit).min(0).line_width(1)
    for target in _targets(queries):
        panel.with_target(target.range())
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel.legend(legend.show_legend(True).calcs([]))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    if stacked:
        panel.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if thresholds:
        panel.thresholds(_thresholds(thresholds))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return panel


def bars(title: str, description: str, unit: str, *queries: Query, thresholds: Steps | None = None) -> timeseries.Panel:
    """The same for rare things: a single one between two empty stretches is seen."""
    panel = lines(title, description, unit, *queries, thresholds=thresholds, stacked=True)
    return panel.draw_style(GraphDrawStyle.BARS).fill_opacity(80)


def amount(title: str, description: str, unit: str, *queries: Query, thresholds: Steps) -> stat.Panel:
    """One number a query, now, coloured."""
    panel = _described(stat.Panel(), title, description, unit)
    for target in _targets(queries):
        panel.with_target(target.instant())
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_mode(BigValueColorMode.BACKGROUND).graph_mode(BigValueGraphMode.NONE).no_value("0")
    return panel.thresholds(_thresholds(thresholds))


def rows(
    title: str, description: str, unit: str, query: Query, *, columns: dict[str, str], thresholds: Steps | None = None
) -> table.Panel:
    """A table, now. ``columns``: labels and their headings; the value's heading is the query's legend."""
    panel = _described(table.Panel(), title, description, unit)
    (target,) = _targets([replace(query, legend="")])
    panel.with_target(target.instant().format(PromQueryFormat.TABLE))
    headings = {**columns, "Value": query.legend}
    arrange = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(headings)},
        "renameByName": headings,
    }
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=arrange))
    panel.sort_by([common.TableSortByFieldState().display_name(query.legend).desc(True)])
    return panel.thresholds(_thresholds(thresholds)) if thresholds else panel


def heat(title: str, description: str, query: Query) -> heatmap.Panel:
    """How the observations of a histogram, in seconds, are spread over its buckets."""
    panel = _described(heatmap.Panel(), title, description, "short")
    (target,) = _targets([query])
    panel.with_target(target.range().format(PromQueryFormat.HEATMAP))
    panel.calculate(False).y_axis(heatmap.YAxisConfig().unit("s"))
    return panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))


def new_dashboard(title: str, *, uid: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard with the variables and links that all have."""
    frame = dashboard.Dashboard(title).uid(uid).description(description).tags([TAG]).readonly()
    frame.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    frame.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    # `.+`: a series without these labels is not ours. The other labels may be empty (a process has no queue).
    target = {"job": "$job", "instance": "$instance"}
    frame.with_variable(_values("job", "Job", catalogue.MONITOR_BUILD_INFO, "job", {}, every=".+"))
    frame.with_variable(
        _values("instance", "Instance", catalogue.MONITOR_BUILD_INFO, "instance", {"job": "$job"}, every=".+")
    )
    frame.with_variable(_values("queue", "Queue", catalogue.WORKER_QUEUE, "queue_name", target, every=".*"))
    frame.with_variable(_values("worker", "Worker", catalogue.WORKER_INFO, "hostname", target, every=".*"))
    frame.with_variable(_values("pool", "Pool", catalogue.POOL_INFO, "pool", target, every=".*"))
    frame.link(
        dashboard.DashboardLink("loopwatch")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
    )
    return frame.link(dashboard.DashboardLink("Runbook").type(DashboardLinkType.LINK).url(RUNBOOK).target_blank(True))


def numbered(frame: dashboard.Dashboard) -> Dashboard:
    """The finished dashboard, its panels numbered in order: links to one panel need a number that stays."""
    built = frame.build()
    for number, panel in enumerate(built.panels or [], start=1):
        panel.id_val = number
    return built


def _values(
    name: str, label: str, metric: Metric, of: str, matchers: dict[str, str], *, every: str
) -> dashboard.QueryVariable:
    inner = ",".join(f'{key}=~"{value}"' for key, value in matchers.items())
    variable = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE)
    variable.query(f"label_values({metric.name}{{{inner}}}, {of})" if inner else f"label_values({metric.name}, {of})")
    variable.multi(True).include_all(True).all_value(every)
    variable.current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


def _described(panel: AnyPanel, title: str, description: str, unit: str) -> AnyPanel:
    return panel.title(title).description(description).unit(unit).datasource(DATASOURCE).span(WIDTH).height(HEIGHT)


def _targets(queries: Sequence[Query]) -> Iterator[prometheus.Dataquery]:
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
        yield target.ref_id(ref).datasource(DATASOURCE)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    colours = [Threshold(None, "green"), *(Threshold(value, colour) for value, colour in steps.items())]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours)
