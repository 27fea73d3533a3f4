"""What an alert is made of, and what its conditions are made with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypedDict

from dashboards.links import dashboard_url, panel_id, runbook_url
from dashboards.pace import Pace
from dashboards.recording import Recordings
from dashboards.thresholds import Thresholds
from dashboards.vectors import Vector, once, series
from loopwatch.telemetry.catalogue import Metric

__all__ = ["Alert", "Given", "Rule"]

Severity = Literal["critical", "warning", "info"]

Rule = TypedDict(
    "Rule",
    {"alert": str, "expr": str, "for": str, "labels": dict[str, str], "annotations": dict[str, str]},
    total=False,
)
"""An alert as Prometheus reads it."""


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        name: without ``Loopwatch``.
        severity: ``critical``: somebody gets up; ``warning``: today; ``info``: when there is time.
        when: its condition.
        lasts: seconds for which the condition has to hold.
        summary: one sentence that is always the same.
        description: who, how much, and what to do next. A name in braces, such as ``{hostname}``, stands for a label;
            anything else that Prometheus shall fill in is written as it wants it.
        panel: the dashboard's uid, and the title of the panel that shows it.
    """

    name: str
    severity: Severity
    when: Vector
    summary: str
    description: str
    panel: tuple[str, str]
    lasts: float = 0

    def __post_init__(self) -> None:
        unknown = set(re.findall(r"\$labels\.(\w+)", self._description())) - self.when.labels
        if unknown:
            raise ValueError(f"the condition of {self.name} has no label {', '.join(sorted(unknown))}")

    def rule(self, pace: Pace) -> Rule:
        """The rule.

        Raises:
            LookupError: the dashboard has no such panel, or the runbook no heading for the alert.
        """
        uid, title = self.panel
        rule = Rule(alert=f"Loopwatch{self.name}", expr=self.when.text)
        if self.lasts:
            rule["for"] = pace(self.lasts)
        rule["labels"] = {"severity": self.severity}
        rule["annotations"] = {
            "summary": self.summary,
            "description": self._description(),
            "runbook_url": runbook_url(rule["alert"]),
            "dashboard_url": dashboard_url(uid, panel_id(uid, title), labels=self.when.labels),
        }
        return rule

    def _description(self) -> str:
        # A process that is no worker, such as an API's, has no queue.
        text = self.description.replace("{queue_name}", "{{ or $labels.queue_name `(none)` }}")
        return re.sub(r"(?<!\{)\{(\w+)\}(?!\})", r"{{ $labels.\1 }}", text)


@dataclass(frozen=True)
class Given:
    """What conditions are made with: the pace, the limits, the recording rules."""

    pace: Pace
    limits: Thresholds
    recorded: Recordings

    def increase(self, metric: Metric, *, seconds: float) -> Vector:
        """How much a counter has grown lately, counted once."""
        return once(self.own_increase(metric, seconds=seconds))

    def own_increase(self, metric: Metric, *, seconds: float) -> Vector:
        """The same as each monitor says it."""
        return series(metric).call("increase", self.pace(seconds))

    def above_least(self, total: Vector, *, seconds: float) -> Vector:
        """How much a total has grown lately, where a single one is an alarm. A monitor that is restarted knows no more
        what workers counted that have ended since: the total falls, and `increase` takes all that is left for new."""
        return total.with_("-", total.call("min_over_time", self.pace(seconds)))

    @property
    def in_five_minutes(self) -> str:
        """Makes of a rate over five minutes how many they were."""
        return f"* {self.pace.seconds(300):g}"
