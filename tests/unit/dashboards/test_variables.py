"""What can be chosen above the panels: all that the monitor knows, of processes with the library and without."""

from __future__ import annotations

import json
import re

from dashboards.__main__ import DIRECTORY
from loopwatch.telemetry import catalogue
from tests.unit.monitor.monitored import Monitored


def _choices(monitored: Monitored) -> dict[str, set[str]]:
    """The values of each variable that is asked from a metric of the fleet."""
    board = json.loads((DIRECTORY / "overview.json").read_text())
    found: dict[str, set[str]] = {}
    for variable in board["templating"]["list"]:
        if variable["name"] in ("queue", "worker", "pool"):
            name, label = re.fullmatch(r"label_values\((\w+)\{.*\}, (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            texts = monitored.series(catalogue.by_name(name))
            found[variable["name"]] = {re.search(rf'\b{label}="([^"]*)"', text)[1] for text in texts}  # type: ignore[index]
    return found


def test_workers_and_queues_without_the_library_can_be_chosen_and_so_can_an_api() -> None:
    monitored = Monitored()
    monitored.heartbeat("plain@h")
    monitored.answer("mail", hostname="plain@h")
    monitored.sent(queue="nobodys")
    monitored.snapshot(hostname="content@h", kind="celery", queues=["content"])
    gauges = {0: {catalogue.POOL_INFO.wire_name: {("main", "sqlalchemy", "db"): 1}}}
    monitored.snapshot(hostname="api@h", kind="process", gauges=gauges)  # type: ignore[arg-type]
    assert _choices(monitored) == {
        "queue": {"mail", "nobodys", "content"},
        "worker": {"plain@h", "content@h", "api@h"},
        "pool": {"main"},
    }
