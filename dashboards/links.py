"""Where an alert leads to: a panel of a dashboard, and its heading in the runbook.

``make dashboards`` takes the places from the environment: ``GRAFANA_URL``, and ``RUNBOOK_URL`` where runbook.md is
published as a page. Without the latter the runbook is the dashboard that is made of it: every installation has that.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["GRAFANA", "RUNBOOK", "RUNBOOK_UID", "dashboard_url", "headings", "panel_id", "runbook_url"]

GRAFANA = "http://localhost:3000"
RUNBOOK = Path(__file__).parent / "runbook.md"
RUNBOOK_UID = "loopwatch-runbook"
DASHBOARDS = Path(__file__).parent / "grafana"

VARIABLES = {"job": "job", "instance": "instance", "queue_name": "queue", "hostname": "worker", "pool": "pool"}
"""Labels of an alert, and the dashboards' variables that they set."""


def headings() -> list[str]:
    """The alerts in the runbook, in order."""
    return re.findall(r"^## (Loopwatch\w+)$", RUNBOOK.read_text(), flags=re.MULTILINE)


def panel_id(uid: str, title: str) -> int:
    """The number of a panel in the dashboards as they were last written.

    Raises:
        LookupError: there is no such dashboard, or not exactly one panel with this title in it.
    """
    numbers = [panel["id"] for panel in _panels(uid) if panel.get("title") == title and panel["type"] != "row"]
    if len(numbers) != 1:
        raise LookupError(f"the dashboard {uid} has {len(numbers)} panels with the title {title!r}")
    return int(numbers[0])


def dashboard_url(uid: str, panel: int | None = None, *, labels: Iterable[str] = ()) -> str:
    """The address of a dashboard, or of one panel. ``labels``: those of an alert, whose values Prometheus fills in.

    >>> dashboard_url("loopwatch-pools", 3, labels=["pool"])
    'http://localhost:3000/d/loopwatch-pools?viewPanel=3&var-pool={{ $labels.pool | urlquery }}'
    """
    query = [f"viewPanel={panel}"] if panel is not None else []
    query += [
        f"var-{VARIABLES[label]}={{{{ $labels.{label} | urlquery }}}}" for label in VARIABLES if label in set(labels)
    ]
    address = f"{_place('GRAFANA_URL', GRAFANA)}/d/{uid}"
    return f"{address}?{'&'.join(query)}" if query else address


def runbook_url(alert: str) -> str:
    """Where the runbook speaks of this alert.

    Raises:
        LookupError: it does not.
    """
    if alert not in headings():
        raise LookupError(f"runbook.md has no heading {alert}")
    published = _place("RUNBOOK_URL", "")
    if published:
        return f"{published}#{alert.lower()}"
    return f"{_place('GRAFANA_URL', GRAFANA)}/d/{RUNBOOK_UID}/?viewPanel={headings().index(alert) + 1}"


def _place(variable: str, default: str) -> str:
    return os.environ.get(variable, default).rstrip("/")


def _panels(uid: str) -> list[dict[str, Any]]:
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = _read(path, path.stat().st_mtime_ns)
        if dashboard["uid"] == uid:
            return list(dashboard["panels"])
    raise LookupError(f"there is no dashboard {uid}")


@cache
def _read(path: Path, written: int) -> dict[str, Any]:
    """The JSON of a dashboard; ``written`` (when) makes it be read anew."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content
