"""What the demo shows: a live table on a terminal, plain lines elsewhere, and the comparison at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from app.demo.metrics import QueueNumbers

__all__ = ["Show", "comparison", "live", "make_console"]

Rows = Sequence[QueueNumbers]
PLAIN_WIDTH = 120
"""Columns of output that is not a terminal: a narrower default would break the table's lines."""


class Show(Protocol):
    """Shows the numbers of now."""

    def __call__(self, title: str, rows: Rows) -> None: ...


def make_console() -> Console:
    """Standard output; as wide as the table where it is a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


@contextmanager
def live(console: Console) -> Iterator[Show]:
    """A table that is drawn anew each time on a terminal; one line a queue elsewhere."""
    if not console.is_terminal:
        yield lambda title, rows: _print_lines(console, title, rows)
        return
    with Live(console=console, auto_refresh=False) as display:
        yield lambda title, rows: display.update(_table(f"APP_RESOURCES={title}", {"": rows}), refresh=True)


def comparison(phases: Mapping[str, Rows]) -> Table:
    """The table of the end: one row a queue and setting."""
    return _table("The same traffic with both settings of APP_RESOURCES", phases)


def _table(title: str, phases: Mapping[str, Rows]) -> Table:
    several = len(phases) > 1
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = "engines and connections: of the database's pools; used: the peak of the last minute"
    for heading in ["APP_RESOURCES"] * several + ["queue"]:
        table.add_column(heading)
    for heading in ("done", "failed", "engines", "used/max", "conflicts", "failed notifications"):
        table.add_column(heading, justify="right")
    for setting, rows in phases.items():
        for row in rows:
            table.add_row(*[setting] * several, *_cells(row))
        table.add_section()
    return table


def _cells(row: QueueNumbers) -> list[str]:
    counts = [row.done, _bad(row.failed), row.engines, f"{row.connections_used}/{row.connections_max}"]
    return [row.queue, *map(str, counts), _bad(row.conflicts), _bad(row.notification_failures)]


def _bad(count: int) -> str:
    return f"[bold red]{count}[/]" if count else "0"


def _print_lines(console: Console, title: str, rows: Rows) -> None:
    for row in rows:
        console.print(
            f"{title}: {row.queue}: {row.done} done, {row.failed} failed, {row.engines} engines, "
            f"{row.connections_used}/{row.connections_max} connections, {row.conflicts} conflicts, "
            f"{row.notification_failures} failed notifications"
        )
