"""docs/monitor.md tells every flag and every metric, as the command line and the catalogue have them."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch_monitor.command import _command

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "monitor.md").read_text()
OPTIONS = [option for option in _command.params if isinstance(option, click.Option)]


def flag_row(option: click.Option) -> str:
    """The row of a flag."""
    names = ", ".join(f"`{name}`" for name in option.opts)
    told = option.show_default and option.default and not option.is_flag and not option.multiple
    default = option.default if told else ""
    return f"| {names} | {f'`{default}`' if default else ''} | {option.help} |"


def metric_row(metric: Metric) -> str:
    """The row of a family."""
    return f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.help.replace('|', '/')} |"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.opts[0])
def test_every_flag_is_told_as_the_command_line_tells_it(option: click.Option) -> None:
    assert option.help
    assert flag_row(option) in PAGE.splitlines()


def test_every_metric_is_told_as_the_catalogue_tells_it() -> None:
    lines = PAGE.splitlines()
    assert [row for row in map(metric_row, catalogue.METRICS) if row not in lines] == []


def test_nothing_is_told_that_does_not_exist() -> None:
    rows = {flag_row(option) for option in OPTIONS} | {metric_row(metric) for metric in catalogue.METRICS}
    told = [line for line in PAGE.splitlines() if line.startswith(("| `--", "| `celery_", "| `loopwatch_"))]
    assert [line for line in told if line not in rows] == []
    assert len(told) == len(set(told)) == len(rows)
