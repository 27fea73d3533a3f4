"""The dashboard "Monitor": does the monitor see everything, and does it stay within its bounds."""

from __future__ import annotations

from grafana_foundation_sdk.builders import stat
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from dashboards.building import new_dashboard, numbered, with_section
from dashboards.panel_kinds import ANY, amount, bars, levels, lines, named, rows, states, steps_for
from dashboards.queries import RATE_INTERVAL, Query, gauge, increase, of_monitors, rate
from dashboards.thresholds import THRESHOLDS as LIMITS
from dashboards.workers import telemetry
from loopwatch.telemetry import catalogue as c

__all__ = ["UID", "build", "monitors_now"]

UID = "loopwatch-monitor"

WORKER = {"hostname": "$worker"}

LAG_STEPS = {LIMITS.monitor_lag_warning_seconds: "yellow", LIMITS.monitor_lag_seconds: "red"}
UP_OR_DOWN = {"1": ("connected", "green"), "0": ("not connected", "red")}


def build() -> Dashboard:
    """The dashboard."""
    frame = new_dashboard(
        "Monitor",
        uid=UID,
        description="Does the monitor see everything that workers say, does the broker answer it, and does it stay "
        "within its bounds? When it is blind, every other dashboard is.",
    )
    with_section(frame, "Now", _now())
    with_section(frame, "Events of the broker", _events())
    with_section(frame, "Telemetry of workers", telemetry())
    with_section(frame, "Bounds and cost", _bounds())
    return numbered(frame)


def monitors_now(*, width: int = 4) -> stat.Panel:
    """How many answer Prometheus."""
    panel = amount(
        "Monitors up",
        "Good: all up. Bad: none up, every other panel is blind. Down: one that was scraped within the last hour.",
        "none",
        Query(f"sum({of_monitors('up')}) or vector(0)", "up"),
        Query(f"count({of_monitors('up')} == 0) or vector(0)", "down"),
        thresholds={1: "green"},
        below="red",
        width=width,
    )
    return panel.override_by_query("B", steps_for({1: "red"}))


def _now() -> list[Builder[Panel]]:
    down = f"max({increase(c.MONITOR_BROKER_DOWN, window='10m')})"
    return [
        monitors_now(),
        amount(
            "Without broker, 10 min",
            "Good: 0 s. Of the monitor that was without it longest; what was sent meanwhile is not known.",
            "s",
            Query(down, "without it"),
            thresholds={1: "yellow", 60: "red"},
            empty="no monitor",
        ),
        amount(
            "Lag of events",
            "Good: milliseconds. Bad: seconds, the monitor reads late; or the clocks of its machines differ.",
            "s",
            Query(f"max({gauge(c.MONITOR_LAG)})", "lag"),
            thresholds=LAG_STEPS,
            empty="no monitor",
        ),
        amount(
            "Events lost, last 10 min",
            "Good: 0 and 0. Bad: the counters of tasks are too low by as many.",
            "none",
            Query(f"sum({increase(c.MONITOR_EVENTS_LOST, window='10m')}) or vector(0)", "lost"),
            Query(f"sum({increase(c.MONITOR_EVENTS_MALFORMED, window='10m')}) or vector(0)", "unreadable"),
            thresholds={ANY: "red"},
        ),
        amount(
            "Fullest table",
            f"Good: under {LIMITS.monitor_table_share:.0%}. At 100% the oldest entries are evicted.",
            "percentunit",
            Query(f"max({_table_use()})", "fullest"),
            thresholds={LIMITS.monitor_table_share: "yellow"},
            empty="no monitor",
        ),
        amount(
            "Web configuration",
            "Good: in use as its file says. Bad: the file was changed and cannot be used; the log says why.",
            "none",
            Query(f"min({gauge(c.MONITOR_WEB_CONFIG_RELOADED)})", "web configuration"),
            thresholds={1: "green"},
            below="red",
            empty="not used",
        ).mappings(named({"1": ("as its file", "green"), "0": ("refused", "red")})),
    ]


def _events() -> list[Builder[Panel]]:
    return [
        states(
            "Broker connection",
            "Good: green without a break. Bad: red, nothing is seen meanwhile.",
            Query(gauge(c.MONITOR_BROKER_UP), "{{instance}}"),
            names=UP_OR_DOWN,
        ),
        bars(
            "Reconnects",
            "Good: none. Each is a connection to the broker that was lost.",
            "none",
            Query(f"sum by (instance) ({increase(c.MONITOR_RECONNECTS)})", "{{instance}}"),
            empty="none",
        ),
        lines(
            "Events, by kind",
            "Good: follows the rate of tasks. Bad: 0 with workers up; the monitor is blind.",
            "ops",
            Query(f"sum by (instance, event) ({rate(c.MONITOR_EVENTS)})", "{{instance}} {{event}}"),
        ),
        lines(
            "Lag",
            "Age of the newest event when it was read, by the sender's clock. Good: milliseconds.",
            "s",
            Query(gauge(c.MONITOR_LAG), "{{instance}}"),
            thresholds=LAG_STEPS,
        ),
        bars(
            "Lost events, by reason",
            "Good: none. Bad: counters of tasks are too low by as many, and by what was sent while there was no "
            "connection. buffer_full: they came faster than they were read; disconnected: cut off on their way.",
            "none",
            Query(f"sum by (instance, reason) ({increase(c.MONITOR_EVENTS_LOST)})", "{{instance}} {{reason}}"),
            Query(f"sum by (instance) ({increase(c.MONITOR_RECONNECTS)})", "{{instance}} connections cut"),
            empty="none",
        ),
        bars(
            "Malformed events, by reason",
            "Good: none. Bad: another serializer than JSON, or a sender that is not Celery.",
            "none",
            Query(f"sum by (instance, reason) ({increase(c.MONITOR_EVENTS_MALFORMED)})", "{{instance}} {{reason}}"),
            empty="none",
        ),
        lines(
            "Time since the last event",
            "Good: seconds; workers send a heartbeat each two. Bad: a line that climbs.",
            "s",
            Query(f"time() - ({gauge(c.MONITOR_LAST_EVENT)} > 0)", "{{instance}}"),
            thresholds={LIMITS.snapshot_seconds: "yellow"},
            empty="no event yet",
        ),
        lines(
            "Time without the broker",
            "Seconds of each second. Good: 0. 1: not connected at all.",
            "percentunit",
            Query(rate(c.MONITOR_BROKER_DOWN), "{{instance}}"),
            full=True,
        ),
    ]


def _table_use() -> str:
    return f"{gauge(c.MONITOR_TABLE_ENTRIES)} / ({gauge(c.MONITOR_TABLE_LIMIT)} > 0)"


def _bounds() -> list[Builder[Panel]]:
    uptime = rows(
        "Monitors and their versions",
        "Good: one version. After a restart celery_* counters begin at 0; those of workers go on.",
        "none",
        Query(f"time() - max by (instance) ({of_monitors('process_start_time_seconds')})", "Up for"),
        Query(f"max by (instance, version, python_version) ({gauge(c.MONITOR_BUILD_INFO)})", ""),
        columns={"instance": "Monitor", "version": "Version", "python_version": "Python"},
        units={"Up for": "dtdurations"},
        ascending=True,
        empty="no monitor",
    )
    return [
        levels(
            "Tables against their bounds",
            f"Good: under {LIMITS.monitor_table_share:.0%}. At 100% entries are evicted, which the next panel shows.",
            "percentunit",
            Query(_table_use(), "{{instance}} {{table}}"),
            thresholds={LIMITS.monitor_table_share: "yellow", 1: "red"},
            empty="no monitor",
        ),
        bars(
            "Evicted entries and dropped series",
            "Good: none. Bad: some tasks have an unknown queue, and some series are missing: raise the limit, or look "
            "for a label with too many values.",
            "none",
            Query(f"sum by (instance, table) ({increase(c.MONITOR_EVICTIONS)})", "{{instance}} {{table}} evicted"),
            Query(
                f"sum by (instance, family) ({increase(c.MONITOR_SERIES_DROPPED)})",
                "{{instance}} {{family}} dropped",
            ),
            empty="none",
        ),
        lines(
            "Memory",
            "Good: flat. Bad: climbs for hours: see which table fills, or whether events wait to be read.",
            "decbytes",
            Query(of_monitors("process_resident_memory_bytes"), "{{instance}}"),
            thresholds={LIMITS.monitor_memory_bytes: "yellow"},
        ),
        lines(
            "Processor",
            "Good: follows the rate of events. Bad: near 100%, one core is all that it can use.",
            "percentunit",
            Query(of_monitors("process_cpu_seconds_total", window=RATE_INTERVAL), "{{instance}}"),
        ),
        lines(
            "Scrape time",
            "Good: milliseconds, flat. Bad: near Prometheus' scrape_timeout.",
            "s",
            Query(of_monitors("scrape_duration_seconds"), "{{instance}}"),
            thresholds={LIMITS.scrape_warning_seconds: "yellow"},
        ),
        lines(
            "Samples a scrape",
            "Good: grows with workers and tasks only. Bad: climbs without new ones.",
            "none",
            Query(of_monitors("scrape_samples_scraped"), "{{instance}}"),
        ),
        lines(
            "Bytes that wait to be decoded",
            "Good: 0, or peaks that go at once. Bad: climbs; events come faster than they are read.",
            "bytes",
            Query(gauge(c.MONITOR_BUFFER), "{{instance}}"),
        ),
        uptime,
    ]
