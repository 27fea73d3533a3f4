"""What Prometheus and Alertmanager saw of four troubles, and what a dashboard shows of it.

Users come; then things go wrong at once and are ended: workers share clients between loops (``APP_RESOURCES=global``),
somebody locks a table while the pools are of one connection, Redis refuses notifications; and while those workers
start, another table is slow, so that users wait for the API's connection.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dashboards.__main__ import DIRECTORY
from dashboards.links import RUNBOOK
from dashboards.reading import Panel, Window, filled, panels_of, variables_of
from tests.acceptance.compose import Compose
from tests.acceptance.prometheus import Prometheus, Series
from tests.acceptance.stack import eventually
from tests.acceptance.troubles import locked_logs, refused_notifications, slow_roadmaps, users
from tests.alertmanager import Alertmanager

__all__ = ["BOARDS", "STEP", "Seen", "checks", "columns", "followed", "watch"]

BOARDS: dict[str, Any] = {path.stem: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}
"""The committed dashboards by the names of their files."""
STEP = 1.0
"""Seconds between two scrapes, and between two points of a graph."""
PATIENCE = 180.0
"""Seconds that an alert may take on a machine with other work."""
SICK = ("celery_logs_global", "celery_content_global", "celery_workflow_global")
"""The services of the profile ``sick``."""
WAITING = frozenset({"LoopwatchPoolWaiters"})
"""Alerts that are over before the others fire: what causes them ends when they were seen."""


@dataclass(frozen=True)
class Seen:
    """The servers, and when what happened.

    Attributes:
        began, quiet, height, ended: when the users came, all was well, all expected alerts were firing (those of
            `WAITING` before it), and none was.
        told: the alerts that Alertmanager had at the height, and before it those of `WAITING`.
    """

    prometheus: Prometheus
    began: float
    quiet: float
    height: float
    ended: float
    told: list[dict[str, Any]]

    def answer(
        self, board: Mapping[str, Any], expression: str, *, instant: bool, chosen: Mapping[str, Sequence[str]]
    ) -> list[Series]:
        """The series that a panel shows somebody who looks at the height; without a choice "All" is chosen."""
        window = Window(start=self.began, end=self.height, step=STEP, scrape_interval=STEP)
        expression = filled(expression, variables_of(board, **chosen) | window.variables())
        if instant:
            found = self.prometheus.query(expression, time=self.height)
        else:
            found = self.prometheus.query_range(expression, start=self.began, end=self.height, step=STEP)
        return [one for one in found if any(not math.isnan(value) for _, value in one.samples)]

    def values(self, board: Mapping[str, Any]) -> dict[str, list[str]]:
        """What there is to choose for each variable of a dashboard."""
        return {
            variable["name"]: self._values(board, variable["query"])
            for variable in board["templating"]["list"]
            if variable["type"] == "query"
        }

    def states(self, alert: str) -> dict[str, list[tuple[float, float]]]:
        """When an alert was pending, and when it was firing, for whomever: first and last moment of each stretch."""
        found = self.prometheus.query_range(
            f'max by (alertstate) (ALERTS{{alertname="{alert}"}})', start=self.began, end=self.ended, step=STEP
        )
        return {one.labels["alertstate"]: _stretches(moment for moment, _ in one.samples) for one in found}

    def over(self, function: str, expression: str) -> list[Series]:
        """A function of a series' whole past, such as ``max_over_time``, at the end."""
        window = f"{math.ceil(self.ended - self.began)}s"
        return self.prometheus.query(f"{function}({expression}[{window}])", time=self.ended)

    def _values(self, board: Mapping[str, Any], query: str) -> list[str]:
        match = re.fullmatch(r"label_values\((.*),\s*(\w+)\)", query)
        assert match, query
        selector = filled(match[1], variables_of(board))
        return sorted({labels[match[2]] for labels in self.prometheus.series(selector) if labels.get(match[2])})


def watch(stack: Compose, *, expected: Iterable[str], inhibited: Iterable[str]) -> Seen:
    """Has the users come and the troubles come and go; ``expected`` alerts are waited for, and their ends.

    Args:
        inhibited: those of them that Alertmanager holds back, as another one says it better.
    """
    prometheus = Prometheus(stack.url("prometheus"))
    alertmanager = Alertmanager(stack.url("alertmanager"), stack.pid("alertmanager"))
    database = stack.url("postgres").replace("http://", "postgresql://app:app@") + "/app"
    names, silent = frozenset(expected), frozenset(inhibited)

    def told(expected: frozenset[str]) -> list[dict[str, Any]]:
        """What Alertmanager has, as soon as it tells all of these, and holds back those that it shall."""

        def asked() -> list[dict[str, Any]]:
            alerts = alertmanager.alerts()
            held_back = {alert["labels"]["alertname"] for alert in alerts if alert["status"]["inhibitedBy"]}
            active = {alert["labels"]["alertname"] for alert in alerts if alert["status"]["state"] == "active"}
            # Where scrapes fail for want of a processor a monitor that is down holds back all, and not for long.
            right = expected - silent <= active and expected & silent <= held_back - active
            return alerts if right else []

        try:
            return eventually(asked, timeout=PATIENCE, what=", ".join(sorted(expected)))
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {_named(prometheus.alerts())}") from None

    def over() -> bool:
        left = {alert["labels"]["alertname"] for alert in [*alertmanager.alerts(), *prometheus.alerts()]}
        return not names & left

    began = time.time()
    with users(stack.url("api")):
        every_queue = "count(sum by (queue_name) (celery_task_succeeded_total) > 0) == 3"
        eventually(lambda: prometheus.query(every_queue), timeout=PATIENCE, what="tasks of each queue")
        quiet = time.time()
        redis = stack.url("redis").replace("http://", "redis://")
        with locked_logs(database), refused_notifications(redis), ThreadPoolExecutor(1) as thread:
            started = thread.submit(stack.start, *SICK)
            with slow_roadmaps(database):
                alerts = [alert for alert in told(names & WAITING) if alert["labels"]["alertname"] in WAITING]
            started.result()
            # Nothing of the healthy is disposed of before a process has run the 50 tasks of its life. The last point of
            # a graph may be a second old, and a rate there needs two samples: hence the offset.
            ended = "sum(rate(loopwatch_engines_disposed_total[5s] offset 2s))"
            eventually(lambda: prometheus.query(ended), timeout=PATIENCE, what="a process that was replaced")
            alerts += [alert for alert in told(names - WAITING) if alert["labels"]["alertname"] not in WAITING]
            height = _without_a_hole(prometheus, after=time.time())
        # The one of the logs had to wait for its table.
        conflicts = 'count(sum by (hostname) (loopwatch_loop_conflicts_total{hostname=~".+@global[.].+"}) > 0)'
        everywhere = f"{conflicts} == {len(SICK)}"
        eventually(lambda: prometheus.query(everywhere), timeout=PATIENCE, what="conflicts of each sick worker")
        stack.stop(*SICK)
        eventually(over, timeout=PATIENCE, what="the end of all alerts")
    return Seen(prometheus, began, quiet, height, time.time(), alerts)


def _without_a_hole(prometheus: Prometheus, *, after: float) -> float:
    """A moment, past by now, at which Prometheus has the numbers of the last scrapes.

    A scrape that failed for want of a processor would leave a hole at the very moment that is looked at; and it fails
    a little later than it began, which is when its hole is.
    """
    whole = 'min_over_time(up{job="loopwatch"}[5s]) == 1'

    def moment() -> float | None:
        past = time.time() - 2 * STEP
        return past if past > after and prometheus.query(whole, time=past) else None

    return eventually(moment, timeout=PATIENCE, what="scrapes without a hole")


def followed(url: str) -> tuple[dict[str, Any], Panel, dict[str, list[str]]]:
    """Where an address of a panel leads to: the dashboard, the panel, and what is chosen for the variables."""
    parts = urlsplit(url)
    uid = parts.path.removeprefix("/d/").strip("/")
    (board,) = [board for board in BOARDS.values() if board["uid"] == uid]
    parameters = parse_qs(parts.query, strict_parsing=True, keep_blank_values=True)
    (number,) = parameters.pop("viewPanel")
    (panel,) = [panel for panel in panels_of(board, without_queries=True) if panel.number == int(number)]
    return board, panel, {name.removeprefix("var-"): values for name, values in parameters.items()}


def columns(panel: Panel) -> set[str]:
    """The labels that a table has columns of."""
    options = [one["options"] for one in panel.raw.get("transformations", ()) if one["id"] == "organize"]
    named = {label for option in options for label in option["indexByName"]}
    return {label for label in named if label != "Time" and not label.startswith("Value")}


def checks() -> list[tuple[str, str]]:
    """The queries of the runbook, each with the alert it confirms."""
    sections = re.findall(r"^## (Loopwatch\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    return [(alert, query) for alert, text in sections for query in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)]


def _named(alerts: Iterable[Mapping[str, Any]]) -> list[str]:
    """What Prometheus says of alerts, to be read."""
    return sorted(f"{alert['labels']['alertname']} ({alert['state']})" for alert in alerts)


def _stretches(moments: Iterable[float]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for moment in moments:
        goes_on = bool(found) and moment - found[-1][1] < 1.5 * STEP
        found[-1:] = [(found[-1][0], moment)] if goes_on else [*found[-1:], (moment, moment)]
    return found
