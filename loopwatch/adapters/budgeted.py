"""What a pool tells of the connection budget that it was made with: its limit, and loops beyond the plan."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from loopwatch.connection_budget import Budget
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, Gauge

__all__ = ["limit_gauge", "note_loops"]

logger = logging.getLogger("loopwatch")

MAX_WARNED = 100
"""Pools that one process warns of."""
_warned: set[str] = set()


def note_loops(budget: Budget | None, pool: str, loops: int) -> None:
    """A loop of this process makes a pool, the ``loops``-th that are there at once: beyond the plan it is counted, and
    warned of once a pool."""
    if budget is None:
        return
    planned = budget.loops_per_process
    STATS.count(catalogue.LOOPS_UNPLANNED, (pool,), int(loops > planned))
    if loops > planned and pool not in _warned and len(_warned) < MAX_WARNED:
        _warned.add(pool)
        logger.warning(
            "%s: %d event loops of this process hold a pool at once, and the budget plans %d: the fleet may open more "
            "than the %d connections that it was given. Run coroutines by loopwatch.run_async, which keeps one loop, "
            "or plan for them: loopwatch.budget(%d, ..., loops_per_process=%d). Said once; "
            "loopwatch_loops_unplanned_total counts on",
            pool,
            loops,
            planned,
            budget.limit - budget.reserved,
            budget.limit,
            loops,
        )


def limit_gauge(budget: Budget | None, database: str) -> Iterator[Gauge]:
    """How many connections the database takes, once a budget and the database are known."""
    if budget is not None and database:
        yield catalogue.DATABASE_CONNECTIONS_LIMIT, (database,), budget.limit
