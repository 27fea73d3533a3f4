"""Writes the dashboards' JSON, ``python -m dashboards [directory]``, and without a directory the rules, too."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import loop_conflicts, monitor, overview, pools, prometheus_rule, rules, runbook, tasks
from dashboards.prefix import with_prefix

DASHBOARDS = {
    "overview.json": overview.build,
    "loop-conflicts.json": loop_conflicts.build,
    "pools.json": pools.build,
    "tasks.json": tasks.build,
    "monitor.json": monitor.build,
    "runbook.json": runbook.build,
}
"""File names, and what builds their content."""

DIRECTORY = Path(__file__).parent / "grafana"


def render(name: str) -> str:
    """The JSON of one dashboard, as it is committed."""
    return with_prefix(JSONEncoder(sort_keys=True, indent=2).encode(DASHBOARDS[name]()) + "\n")


def main(directory: Path = DIRECTORY) -> None:
    """Writes every dashboard into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (directory / name).write_text(render(name))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
    if not sys.argv[1:]:  # after the dashboards: the alerts link to panels by their numbers
        rules.RULES.write_text(rules.render())
        prometheus_rule.RULE.write_text(prometheus_rule.render())
