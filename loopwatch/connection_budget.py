"""How many connections one process may hold, so that the whole fleet fits the server.

The usual arithmetic (a share with a floor, plus an overflow with a floor) overruns the server: 18 processes times
10 + 5 are 270 connections where 200 are allowed. Here the guarantee comes first; summed over the roles:

    processes at once x loops per process x (pool_size + max_overflow) <= limit - reserved
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from loopwatch.errors import BudgetError, ConfigurationError

__all__ = ["Budget", "Share", "budget"]

MOST = 100
"""The highest weight and surge that are believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process of a role may hold.

    Attributes:
        processes: of this role, as planned.
        at_once: of this role, at the height of a rolling deploy.
        pool_size: connections that a pool keeps open.
        max_overflow: connections that a pool may open beyond them for a while.
    """

    processes: int
    at_once: int
    pool_size: int
    max_overflow: int

    @property
    def connections(self) -> int:
        """Connections of one pool at most."""
        return self.pool_size + self.max_overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What each process may hold, and the numbers that it follows from; made by `budget`.

    >>> import loopwatch
    >>> plan = loopwatch.budget(200, processes={"api": 4, "worker": 14}, weights={"api": 2}, surge=1.5)
    >>> print(plan)
    api: 6 processes x (pool_size 8 + max_overflow 4) = 72; worker: 21 processes x ... = 105; 177 of the 180 ...
    >>> plan.roles["api"].connections, plan.roles["worker"].connections
    (12, 5)

    Attributes:
        limit: connections that the server takes in all.
        reserved: connections that are left for others (migrations, psql, the monitor).
        roles: the share by role; one role ``""`` where only a number of processes was given.
        loops_per_process: event loops that hold a pool at once in one process.
    """

    limit: int
    reserved: int
    roles: Mapping[str, Share]
    loops_per_process: int

    def share(self, role: str | None = None) -> Share:
        """A role's share; without a name that of every role, where they are the same.

        Raises:
            ConfigurationError: there is no such role, or the roles' shares differ and none is named.
        """
        names = ", ".join(map(repr, self.roles))
        if role is not None:
            if role not in self.roles:
                raise ConfigurationError(f"the budget has no role {role!r}: write one of {names}")
            return self.roles[role]
        if len({(share.pool_size, share.max_overflow) for share in self.roles.values()}) > 1:
            raise ConfigurationError(f"the budget's roles have shares of their own: name one of {names}")
        return next(iter(self.roles.values()))

    @property
    def pool_size(self) -> int:
        """Connections that a pool keeps open, where that is the same for all roles (see `share`)."""
        return self.share().pool_size

    @property
    def max_overflow(self) -> int:
        """Connections that a pool may open beyond them, where that is the same for all roles (see `share`)."""
        return self.share().max_overflow

    @property
    def processes(self) -> int:
        """All processes of all roles, as planned."""
        return sum(share.processes for share in self.roles.values())

    @property
    def total(self) -> int:
        """Connections that the fleet holds at most, during a surge too; never more than ``limit - reserved``."""
        return self.loops_per_process * sum(share.at_once * share.connections for share in self.roles.values())

    def pool_options(self, role: str | None = None) -> dict[str, Any]:
        """The arguments for `loopwatch.create_async_engine`: the sizes, and the plan itself as ``budget``, by which
        the pool tells when its process opens more loops than planned. See `share` for ``role`` and the errors.

        >>> import loopwatch
        >>> options = loopwatch.budget(200, processes=18).pool_options()
        >>> options["pool_size"], options["max_overflow"]
        (6, 4)
        """
        share = self.share(role)
        return {"pool_size": share.pool_size, "max_overflow": share.max_overflow, "budget": self}

    def explain(self) -> str:
        """The arithmetic in plain words, one line; processes are counted as in a surge."""
        loops = f" x {self.loops_per_process} loops" if self.loops_per_process > 1 else ""
        products = "; ".join(
            f"{f'{role}: ' if role else ''}{share.at_once} processes{loops}"
            f" x (pool_size {share.pool_size} + max_overflow {share.max_overflow})"
            f" = {share.at_once * self.loops_per_process * share.connections}"
            for role, share in self.roles.items()
        )
        total = f"; {self.total}" if len(self.roles) > 1 else ""
        return (
            f"{products}{total} of the {self.limit - self.reserved} connections that {self.limit} leave"
            f" with {self.reserved} in reserve"
        )

    def __str__(self) -> str:
        return self.explain()


def budget(
    limit: int,
    *,
    processes: int | Mapping[str, int],
    reserve: int | float = 0.10,
    loops_per_process: int = 1,
    weights: Mapping[str, float] | None = None,
    surge: float | Mapping[str, float] = 1.0,
) -> Budget:
    """Shares the server's connections out among the processes.

    >>> import loopwatch
    >>> plan = loopwatch.budget(200, processes={"api": 4, "worker": 14})
    >>> plan.pool_size, plan.max_overflow, plan.total
    (6, 4, 180)

    Give the limit of one database to one engine a process: two engines to it need two budgets that share the limit.

    Args:
        limit: connections that the server takes (PostgreSQL's ``max_connections``, or what your plan allows).
        processes: how many there are, or a mapping of role to number.
        reserve: what to leave to others: a fraction of ``limit`` as a float (rounded up), or a number of connections
            as an int.
        loops_per_process: event loops that use the engine at once in one process; 1 unless you start loops yourself.
        weights: by role, how much a process of it gets compared with the others; 1 where a role is not named, and at
            least one connection each. Without weights every process gets the same, whatever its role.
        surge: how many processes exist at once during a rolling deploy, relative to the plan (2.0: all new ones are
            there before the first old one goes; rounded up); one number, or by role, 1.0 where a role is not named.

    Raises:
        BudgetError: a process would get no connection at all; the message holds the arithmetic.
        ConfigurationError: an argument makes no sense.
    """
    _require_positive("limit", limit)
    _require_positive("loops_per_process", loops_per_process)
    planned = _roles(processes)
    weight_of = _by_role("weights", {} if weights is None else weights, planned, least=0.01)
    surge_of = _by_role("surge", surge, planned, least=1)
    at_once = {role: math.ceil(round(count * surge_of[role], 9)) for role, count in planned.items()}
    reserved = _reserved(limit, reserve)
    costs = {role: count * loops_per_process for role, count in at_once.items()}
    _require_room(limit - reserved, limit, costs, loops_per_process)
    if weights is None:
        sizes = dict.fromkeys(costs, (limit - reserved) // sum(costs.values()))
    else:
        sizes = _weighted(limit - reserved, costs, {role: Fraction(weight_of[role]) for role in costs})
    return Budget(
        limit=limit,
        reserved=reserved,
        roles=MappingProxyType({role: _share(planned[role], at_once[role], size) for role, size in sizes.items()}),
        loops_per_process=loops_per_process,
    )


def _require_room(room: int, limit: int, costs: Mapping[str, int], loops: int) -> None:
    pools = sum(costs.values())
    if room < pools:
        raise BudgetError(
            f"{pools // loops} processes x {loops} loops need {pools} connections at one each, but "
            f"limit {limit} - reserve {limit - room} leaves {room}: start fewer processes (or a smaller surge), raise "
            f"the server's limit to at least {pools + limit - room}, or put a pooler (pgbouncer) in between"
        )


def _weighted(room: int, costs: Mapping[str, int], weights: Mapping[str, Fraction]) -> dict[str, int]:
    """The size of a pool by role: about ``weight`` times one level for all, at least 1, as many as ``room`` takes.

    ``costs``: how many pools a role has. The sum of cost x size stays within ``room``, where one each fits.
    """
    level, at_least_one = Fraction(0), {role for role, cost in costs.items() if not cost}
    while True:
        others = costs.keys() - at_least_one
        left = room - sum(costs[role] for role in at_least_one)
        level = Fraction(left) / sum(costs[role] * weights[role] for role in others)
        below = {role for role in others if weights[role] * level < 1}
        if not below:
            break
        at_least_one |= below
    sizes = {role: max(1, math.floor(weights[role] * level)) for role in costs}
    left = room - sum(costs[role] * size for role, size in sizes.items())

    def turn(role: str) -> Fraction:
        return (sizes[role] + 1) / weights[role]

    # What rounding down has left: one more for whose turn it is, as long as it suffices (a light pool's turn may come
    # again before a heavy one's), and then one more for each role that it still suffices for.
    present = [role for role in costs if costs[role]]
    while costs[role := min(present, key=turn)] <= left:
        sizes[role] += 1
        left -= costs[role]
    for role in sorted(present, key=turn):
        if costs[role] <= left:
            sizes[role] += 1
            left -= costs[role]
    return sizes


def _share(processes: int, at_once: int, size: int) -> Share:
    # Three fifths are kept open, the rest only at a peak: idle connections cost the server memory.
    pool_size = math.ceil(size * 3 / 5)
    return Share(processes=processes, at_once=at_once, pool_size=pool_size, max_overflow=size - pool_size)


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


def _by_role(
    name: str, given: float | Mapping[str, float], roles: Mapping[str, int], *, least: float
) -> dict[str, float]:
    """A number by role, 1 where none is given."""
    if not isinstance(given, Mapping):
        given = dict.fromkeys(roles, given)
    for role, number in given.items():
        if role not in roles:
            raise ConfigurationError(f"{name} has a role that processes has not: {role!r}")
        if not _is_number(number) or not least <= number <= MOST:
            raise ConfigurationError(f"{name} must be a number from {least} to {MOST}, not {number!r}")
    return {role: given.get(role, 1) for role in roles}


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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
