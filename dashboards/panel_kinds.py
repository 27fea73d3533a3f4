"""The kinds of panels, so that each follows the conventions by itself.

A panel has a title, a unit, and a description that says what is good and what is bad. Where nothing to show is the good
news, ``empty`` says so in its place, and it does not look broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import TypeAlias, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    gauge,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

from dashboards.queries import Query

__all__ = [
    "ANY",
    "DATASOURCE",
    "Linked",
    "Steps",
    "amount",
    "bars",
    "dial",
    "heat",
    "levels",
    "lines",
    "named",
    "page",
    "rows",
    "states",
    "steps_for",
]

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

ANY = 0.001
"""The threshold for "not one": of a single event Prometheus' extrapolation may leave a little less than 1."""

Steps: TypeAlias = Mapping[float, str]
"""Thresholds: from this value on, this colour; below the first it is green."""

Linked = TypeVar("Linked", stat.Panel, gauge.Panel, bargauge.Panel)

AnyPanel = TypeVar(
    "AnyPanel",
    timeseries.Panel,
    stat.Panel,
    gauge.Panel,
    bargauge.Panel,
    table.Panel,
    heatmap.Panel,
    statetimeline.Panel,
)


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    thresholds: Steps | None = None,
    stacked: bool = False,
    full: bool = False,
    empty: str = "",
    width: int = 12,
) -> timeseries.Panel:
    """Lines over time, the thresholds drawn among them; ``full``: the axis goes up to 1, as a share can."""
    panel = _asked(timeseries.Panel(), title, description, unit, queries, width=width).min(0).line_width(1)
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel.legend(legend.show_legend(True).calcs([]))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if stacked:
        panel.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if full:
        panel.axis_soft_max(1)
    if thresholds:
        panel.thresholds(_thresholds(thresholds))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return panel.no_value(empty) if empty else panel


def bars(
    title: str, description: str, unit: str, *queries: Query, thresholds: Steps | None = None, empty: str = ""
) -> timeseries.Panel:
    """The same for rare things: a single one between two empty stretches is seen, and only what there is is named."""
    some = [replace(query, expression=f"{query.expression} > 0") for query in queries]
    panel = lines(title, description, unit, *some, thresholds=thresholds, stacked=True, empty=empty)
    # A bar a minute at least: the windows of narrower ones would overlap, and show one event several times.
    return panel.draw_style(GraphDrawStyle.BARS).fill_opacity(80).interval("1m")


def amount(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    thresholds: Steps,
    below: str = "green",
    empty: str = "0",
    width: int = 4,
) -> stat.Panel:
    """One number a query, now, coloured; ``below`` the first threshold so."""
    panel = _asked(stat.Panel(), title, description, unit, queries, instant=True, width=width, height=4)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_mode(BigValueColorMode.BACKGROUND).graph_mode(BigValueGraphMode.NONE)
    panel.text_mode(BigValueTextMode.VALUE_AND_NAME if len(queries) > 1 else BigValueTextMode.VALUE)
    return panel.no_value(empty).thresholds(_thresholds(thresholds, below))


def dial(
    title: str, description: str, unit: str, query: Query, *, thresholds: Steps, empty: str, width: int = 4
) -> gauge.Panel:
    """One share of a whole, now."""
    panel = _asked(gauge.Panel(), title, description, unit, [query], instant=True, width=width, height=4)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0).max(1).no_value(empty)
    return panel.thresholds(_thresholds(thresholds))


def levels(
    title: str, description: str, unit: str, *queries: Query, thresholds: Steps, empty: str, width: int = 12
) -> bargauge.Panel:
    """A bar a series, now: how near each is to its bound."""
    panel = _asked(bargauge.Panel(), title, description, unit, queries, instant=True, width=width)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0).max(1).no_value(empty)
    panel.orientation(VizOrientation.HORIZONTAL).display_mode(BarGaugeDisplayMode.BASIC)
    return panel.thresholds(_thresholds(thresholds))


def states(
    title: str, description: str, *queries: Query, names: Mapping[str, tuple[str, str]], empty: str = ""
) -> statetimeline.Panel:
    """Which state each was in over time. ``names``: values, and their names and colours."""
    panel = _asked(statetimeline.Panel(), title, description, "none", queries).mappings(named(names))
    panel.show_value(VisibilityMode.NEVER).merge_values(True).row_height(0.8).fill_opacity(80)
    panel.legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE))
    return panel.no_value(empty) if empty else panel


def rows(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    columns: Mapping[str, str],
    thresholds: Mapping[str, Steps] | None = None,
    units: Mapping[str, str] | None = None,
    ascending: bool = False,
    empty: str = "",
    width: int = 12,
) -> table.Panel:
    """A table, now, a row for each set of labels, sorted by the first query's values.

    ``columns``: labels and their headings; a query's heading is its legend, and without one its labels count alone.
    Several queries are joined by the labels that all of them have. ``thresholds`` and ``units`` are given by heading.
    """
    plain = [replace(query, legend="") for query in queries]
    panel = _asked(table.Panel(), title, description, unit, plain, instant=True, width=width, how=PromQueryFormat.TABLE)
    # So Grafana calls the values: by the query's letter where there are several.
    fields = [f"Value #{ref}" for ref in ascii_uppercase[: len(queries)]] if len(queries) > 1 else ["Value"]
    shown = {field: query.legend for field, query in zip(fields, queries, strict=True) if query.legend}
    headings = {**columns, **shown}
    if len(queries) > 1:
        panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    arrange = {
        "excludeByName": dict.fromkeys(("Time", *(field for field in fields if field not in shown)), True),
        "indexByName": {name: index for index, name in enumerate(headings)},
        "renameByName": headings,
    }
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=arrange))
    panel.sort_by([common.TableSortByFieldState().display_name(queries[0].legend).desc(not ascending)])
    for heading in columns.values():  # a release such as 20261124 is a name, not twenty millions
        panel.override_by_name(heading, [DynamicConfigValue("unit", "string")])
    for heading, of in (units or {}).items():
        whole = [DynamicConfigValue("decimals", 0)] if of == "none" else []
        panel.override_by_name(heading, [DynamicConfigValue("unit", of), *whole])
    for heading, steps in (thresholds or {}).items():
        panel.override_by_name(heading, steps_for(steps, below="transparent", cell=True))
    return panel.no_value(empty) if empty else panel


def heat(title: str, description: str, query: Query, *, empty: str) -> heatmap.Panel:
    """How the observations of a histogram, in seconds, are spread over its buckets."""
    panel = _asked(heatmap.Panel(), title, description, "none", [query], how=PromQueryFormat.HEATMAP)
    panel.calculate(False).y_axis(heatmap.YAxisConfig().unit("s")).no_value(empty)
    return panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))


def page(title: str, description: str, markdown: str, *, height: int) -> text.Panel:
    """Text."""
    panel = text.Panel().title(title).description(description).mode(TextMode.MARKDOWN).content(markdown)
    return panel.span(24).height(height)


def named(names: Mapping[str, tuple[str, str]]) -> list[ValueMapping]:
    """Values by name and colour instead of number."""
    results = {
        value: ValueMappingResult(text=name, color=colour, index=index)
        for index, (value, (name, colour)) in enumerate(names.items())
    }
    return [ValueMap(options=results)]


def steps_for(steps: Steps, *, below: str = "green", cell: bool = False) -> list[DynamicConfigValue]:
    """Thresholds of one query or column, where the panel has others; ``cell``: they colour the table's cell."""
    background = DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"})
    values = DynamicConfigValue("thresholds", _thresholds(steps, below).build())
    return [values, background] if cell else [values]


def _asked(
    panel: AnyPanel,
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    instant: bool = False,
    how: PromQueryFormat = PromQueryFormat.TIME_SERIES,
    width: int = 12,
    height: int = 8,
) -> AnyPanel:
    panel.title(title).description(description).unit(unit).datasource(DATASOURCE).span(width).height(height)
    if (
        unit == "none"
    ):  # a number of things: a whole one, whatever the extrapolation of `increase` says; "short" says 1 K
        panel.decimals(0)
    for target in _targets(queries):
        panel.with_target((target.instant() if instant else target.range()).format(how))
    return panel


def _targets(queries: Sequence[Query]) -> Iterator[prometheus.Dataquery]:
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
        yield target.ref_id(ref).datasource(DATASOURCE)


def _thresholds(steps: Steps, below: str = "green") -> dashboard.ThresholdsConfig:
    colours = [Threshold(None, below), *(Threshold(value, colour) for value, colour in steps.items())]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours)
