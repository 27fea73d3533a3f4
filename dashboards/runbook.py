"""The dashboard "Runbook": ``runbook.md`` as panels, so that an alert's link leads to a page that every Grafana has."""

from __future__ import annotations

import re
from math import ceil

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.building import new_dashboard, numbered, with_section
from dashboards.links import RUNBOOK, RUNBOOK_UID
from dashboards.panel_kinds import page

__all__ = ["UID", "build", "numbers"]

UID = RUNBOOK_UID


def numbers() -> dict[str, int]:
    """The alerts and the numbers of their panels: 1, 2, ... in the order of their headings in ``runbook.md``."""
    return {alert: number for number, alert in enumerate(_sections(), start=1)}


def build() -> Dashboard:
    """The dashboard."""
    frame = new_dashboard(
        "Runbook",
        uid=UID,
        description="What each alert means, how to confirm it, and how to fix it.",
        choices=False,
    )
    panels = [
        page(alert, f"What {alert} means, how to confirm it, how to fix it.", text, height=_height(text))
        for alert, text in _sections().items()
    ]
    with_section(frame, "Alerts", panels)
    return numbered(frame, numbers())


def _sections() -> dict[str, str]:
    """The text under each alert's heading; what comes before the first says what the dashboard's description says."""
    _, *sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)
    return {heading.strip(): text.strip() for heading, _, text in (section.partition("\n") for section in sections)}


def _height(text: str) -> int:
    """In rows of the grid (30 pixels and a gap of 8), for lines of 24 pixels; the panel scrolls if it is too little."""
    return 2 + ceil(24 * len(text.splitlines()) / 38)
