"""How many connections one process may hold, so that the whole fleet fits the server.

The usual arithmetic (a share with a floor, plus an overflow with a floor) overruns the server: 18 processes times
10 + 5 are 270 connections where 200 are allowed. Here the guarantee comes first:

    processes x loops per process x (pool_size + max_overflow) <= limit - reserved
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from loopwatch.errors import BudgetError, ConfigurationError

__all__ = ["Budget", "budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one process may hold, and the numbers that it follows from; made by `budget`.

    Attributes:
        limit: connections that the server takes in all.
        reserved: connections that are left for others (migrations, psql, the monitor).
        roles: processes by role; one role ``""`` where only a number was given.
        loops_per_process: event loops that hold a pool at once in one process.
        pool_size: connections that a pool keeps open.
        max_overflow: connections that a pool may open beyond them for a while.
    """

    limit: int
    reserved: int
    roles: Mapping[str, int]
    loops_per_process: int
    pool_size: int
    max_overflow: int

    @property
    def processes(self) -> int:
        """All processes of all roles."""
        return sum(self.roles.values())

    @property
    def per_process(self) -> int:
        """Connections that one process may hold, over all its loops."""
        return self.loops_per_process * (self.pool_size + self.max_overflow)

    @property
    def total(self) -> int:
        """Connections that the fleet holds at most; never more than ``limit - reserved``."""
        return self.processes * self.per_process

    def pool_options(self) -> dict[str, int]:
        """The arguments for ``create_async_engine``."""
        return {"pool_size": self.pool_size, "max_overflow": self.max_overflow}

    def explain(self) -> str:
        """The arithmetic in plain words, one line."""
        named = ", ".join(f"{role} {count}" for role, count in self.roles.items() if role)
        loops = f" x {self.loops_per_process} loops" if self.loops_per_process > 1 else ""
        return (
            f"{self.processes} processes{f' ({named})' if named else ''}{loops}"
            f" x (pool_size {self.pool_size} + max_overflow {self.max_overflow}) = {self.total}"
            f" of the {self.limit - self.reserved} connections that {self.limit} leave with {self.reserved} in reserve"
        )

    def __str__(self) -> str:
        return self.explain()


def budget(
    limit: int,
    *,
    processes: int | Mapping[str, int],
    reserve: int | float = 0.10,
    loops_per_process: int = 1,
) -> Budget:
    """Shares the server's connections out among the processes.

    Args:
        limit: connections that the server takes (PostgreSQL's ``max_connections``, or what your plan allows).
        processes: how many there are, or a mapping of role to number.
        reserve: what to leave to others: a fraction of ``limit`` as a float (rounded up), or a number of connections
            as an int.
        loops_per_process: event loops that use the engine at once in one process; 1 unless you start loops yourself.

    Raises:
        BudgetError: a process would get no connection at all; the message holds the arithmetic.
        ConfigurationError: an argument makes no sense.
    """
    _require_positive("limit", limit)
    _require_positive("loops_per_process", loops_per_process)
    roles = _roles(processes)
    reserved = _reserved(limit, reserve)
    pools = sum(roles.values()) * loops_per_process
    share = (limit - reserved) // pools
    if share < 1:
        raise BudgetError(
            f"{sum(roles.values())} processes x {loops_per_process} loops need {pools} connections at one each, but "
            f"limit {limit} - reserve {reserved} leaves {limit - reserved}: start fewer processes, raise the server's "
            f"limit to at least {pools + reserved}, or put a pooler (pgbouncer) in between"
        )
    # Three fifths are kept open, the rest only at a peak: idle connections cost the server memory.
    pool_size = math.ceil(share * 3 / 5)
    return Budget(
        limit=limit,
        reserved=reserved,
        roles=MappingProxyType(roles),
        loops_per_process=loops_per_process,
        pool_size=pool_size,
        max_overflow=share - pool_size,
    )


def _roles(processes: int | Mapping[str, int]) -> dict[str, int]:
    if not isinstance(processes, Mapping):
        _require_positive("processes", processes)
        return {"": processes}
    for role, count in processes.items():
        # A role that is scaled to nothing is a fair setting.
        if not _is_count(count) or count < 0:
            raise ConfigurationError(f"processes[{role!r}] must be a whole number of at least 0, not {count!r}")
    if not sum(processes.values()):
        raise ConfigurationError(f"processes must name at least one process in all, not {dict(processes)!r}")
    return dict(processes)


def _reserved(limit: int, reserve: int | float) -> int:
    if isinstance(reserve, float) and 0 <= reserve < 1:
        # Rounded first: 0.07 * 100 is 7.000000000000001, and 7 are meant.
        return math.ceil(round(limit * reserve, 9))
    if _is_count(reserve) and 0 <= reserve < limit:
        return int(reserve)
    raise ConfigurationError(
        f"reserve must be a fraction (a float from 0 to below 1) or a number of connections (an int from 0 to below "
        f"limit {limit}), not {reserve!r}"
    )


def _require_positive(name: str, value: int) -> None:
    if not _is_count(value) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, not {value!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
