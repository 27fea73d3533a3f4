"""The frame that every dashboard is built from, so that each follows the conventions by itself.

A dashboard is read-only, has a stable ``uid``, the same variables and annotations as the others, and links to them. Its
panels' numbers are made of their titles: a link to one outlives those that are put before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardLink,
    DashboardLinkType,
    Panel,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from dashboards import rules
from dashboards.links import RUNBOOK_UID, headings
from dashboards.pace import Pace
from dashboards.panel_kinds import DATASOURCE, Linked
from dashboards.queries import firing, gauge
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric

__all__ = ["SCHEMA_VERSION", "leading_to", "link_to", "new_dashboard", "numbered", "with_section"]

SCHEMA_VERSION = 39
"""Grafana 11.0's: a newer one migrates what is older, an older one does not know what is newer."""

TAG = "loopwatch"


def new_dashboard(title: str, *, uid: str, description: str, choices: bool = True) -> dashboard.Dashboard:
    """An empty dashboard with the variables, annotations and links that all have; without ``choices`` nobody sees the
    variables, and the links still hand them on."""
    frame = dashboard.Dashboard(f"loopwatch / {title}").uid(uid).description(description).tags([TAG]).readonly()
    frame.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    hide = VariableHide.DONT_HIDE if choices else VariableHide.HIDE_VARIABLE
    for variable in _variables():
        frame.with_variable(variable.hide(hide))
    frame.annotation(_worker_starts()).annotation(_firing_alerts())
    # By the tag they share, the runbook among them.
    others = dashboard.DashboardLink("loopwatch").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return frame.link(others.as_dropdown(False).include_vars(True).keep_time(True))


def with_section(frame: dashboard.Dashboard, heading: str, panels: Sequence[Builder[Panel]]) -> None:
    """A row and its panels, from left to right and top to bottom; their widths add up to full lines of 24."""
    frame.with_row(dashboard.Row(heading))
    for panel in panels:
        frame.with_panel(panel)


def leading_to(uid: str, title: str, panel: Linked) -> Linked:
    """The panel, its value and the mark beside its title leading to another dashboard: same time, same variables."""
    link = link_to(title, uid)
    return panel.links([link]).data_links([link])


def numbered(frame: dashboard.Dashboard, numbers: Mapping[str, int] | None = None) -> Dashboard:
    """The finished dashboard, the panels that alerts lead to leading on to the alerts' places in the runbook.

    ``numbers``: the panels' numbers by title, where they are not to be made of the titles.

    Raises:
        ValueError: two panels have one title or number.
    """
    built = frame.build()
    built.schema_version = SCHEMA_VERSION
    for panel in built.panels or []:
        title = panel.title or ""
        panel.id_val = numbers[title] if numbers and title in numbers else 1 + crc32(title.encode()) % 1_000_000
        alerts = [alert for alert in rules.alerts(Pace(1)) if alert.panel == (built.uid, panel.title)]
        if isinstance(panel, Panel) and alerts:
            panel.links = [*(panel.links or []), *(_what_to_do(f"Loopwatch{alert.name}") for alert in alerts)]
    ids = [panel.id_val for panel in built.panels or []]
    if len(set(ids)) < len(ids):
        raise ValueError(f"two panels of {built.title} have one title or number")
    return built


def link_to(title: str, uid: str, panel: str = "") -> dashboard.DashboardLink:
    """To another dashboard: same time, same variables; ``panel``: ``viewPanel=...&``."""
    url = f"/d/{uid}?{panel}${{__url_time_range}}&${{__all_variables}}"
    return dashboard.DashboardLink(title).type(DashboardLinkType.LINK).url(url)


def _what_to_do(alert: str) -> DashboardLink:
    number = headings().index(alert) + 1
    return link_to(f"What to do when {alert} fires", RUNBOOK_UID, f"viewPanel={number}&").build()


def _variables() -> list[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    # `.+`: a series without these labels is not ours. The other labels may be empty (a process has no queue).
    job, target = {"job": "$job"}, {"job": "$job", "instance": "$instance"}
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _values("job", "Job", catalogue.MONITOR_BUILD_INFO, "job", {}, every=".+"),
        _values("instance", "Instance", catalogue.MONITOR_BUILD_INFO, "instance", job, every=".+"),
        # Metrics that know them all: the queues of workers without the library, and the API's processes, too.
        _values("queue", "Queue", catalogue.ACTIVE_WORKERS, "queue_name", target, every=".*"),
        _values("worker", "Worker", catalogue.LOOP_CONFLICT_LAST, "hostname", target, every=".*"),
        _values("pool", "Pool", catalogue.POOL_INFO, "pool", target, every=".*"),
    ]


def _values(
    name: str, label: str, metric: Metric, of: str, matchers: dict[str, str], *, every: str
) -> dashboard.QueryVariable:
    inner = ",".join(f'{key}=~"{value}"' for key, value in matchers.items())
    variable = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE)
    variable.query(f"label_values({metric.name}{{{inner}}}, {of})" if inner else f"label_values({metric.name}, {of})")
    variable.multi(True).include_all(True).all_value(every)
    variable.current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


class _Marks(AnnotationQuery, Builder[AnnotationQuery]):
    """Marks over all panels, with the fields of Prometheus' annotations, which the SDK does not know."""

    def __init__(self, name: str, colour: str, expression: str, **fields: object) -> None:
        super().__init__(
            name=name, datasource=DATASOURCE, enable=True, hide=False, icon_color=colour, built_in=0, expr=expression
        )
        self._fields = fields

    def build(self) -> AnnotationQuery:
        return self

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), **self._fields}


def _worker_starts() -> _Marks:
    # The worker's facts on the left: a restart with another release has two of them for a moment.
    facts = f"max by (job, hostname, release) ({gauge(catalogue.WORKER_INFO, hostname='$worker')})"
    started = f"max by (job, hostname) ({gauge(catalogue.WORKER_START_TIME, hostname='$worker')})"
    return _Marks(
        "Worker starts",
        "blue",
        f"{facts} * on (job, hostname) group_left () {started} * 1000",
        useValueForTime=True,
        titleFormat="{{hostname}} started",
        textFormat="release {{release}}",
        tagKeys="hostname,release",
        step="60s",
    )


def _firing_alerts() -> _Marks:
    return _Marks(
        "Firing alerts",
        "red",
        f"max by (alertname, severity, queue_name, hostname, pool, database) ({firing()})",
        useValueForTime=False,
        titleFormat="{{alertname}}",
        textFormat="{{queue_name}} {{hostname}} {{pool}} {{database}}",
        tagKeys="severity",
        step="60s",
    )
