"""`assert_no_leaks`: a block of a test fails when it leaves behind what breaks a worker later.

It compares this process's own numbers before and after, those that loopwatch exports: it sees what is made by
loopwatch or watched by `observe`, and of every other asynchronous SQLAlchemy engine the connections that nobody gave
back. `loopwatch.pytest_plugin` does the same around whole tests.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Its gauges, which tell of loops that were closed too early, are part of `STATS` once it is imported.
import loopwatch.per_loop  # noqa: F401
from loopwatch.errors import LoopwatchError
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.stats import STATS
from loopwatch.telemetry.wire import Labels, Table

__all__ = ["LeakCheck", "LeakError", "assert_no_leaks"]


class LeakError(LoopwatchError, AssertionError):
    """A block or a test left something behind; the message says what, and the fix.

    >>> print(LeakError(["1 connection of 'main' still checked out"]))
    loopwatch found what this left behind:
    - 1 connection of 'main' still checked out

    Attributes:
        problems: one sentence for each.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(["loopwatch found what this left behind:", *(f"- {one}" for one in problems)]))
        self.problems = problems

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.problems,)


@contextmanager
def assert_no_leaks() -> Iterator[None]:
    """Fails when the block leaves a connection checked out, leaves a value of `PerLoop` (an engine's pool, a client)
    on a loop that was closed without ending it, or had a loop conflict, even one that was caught.

    >>> import asyncio
    >>> from loopwatch import PerLoop
    >>> things = PerLoop(list, name="things")
    >>> async def use():
    ...     things.get()
    >>> with assert_no_leaks():
    ...     asyncio.run(use())
    >>> with assert_no_leaks():
    ...     loop = asyncio.new_event_loop()
    ...     loop.run_until_complete(use())
    ...     loop.close()  # without loop.shutdown_asyncgens()
    Traceback (most recent call last):
    loopwatch.testing.LeakError: loopwatch found what this left behind:
    - 1 value of 'things' on an event loop that was closed under it: ...

    It may stand in a coroutine too; what was made for the loop that is still running is not a leak. Work of other
    threads in the meantime is taken for the block's. What the block itself raises goes on, with the leaks as a note.

    Raises:
        LeakError: (an `AssertionError`) with all that was found.
    """
    check = LeakCheck()
    try:
        yield
    except BaseException as error:
        if problems := check.problems():
            error.add_note(str(LeakError(problems)))
        raise
    check.verify()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the process holds and has seen, now."""

    used: Counter[str]
    """Connections checked out, by pool."""
    left: Counter[str]
    """Values whose loop was closed under them, by pool: those that lie there, and those already swept away."""
    conflicts: Counter[Labels]
    lost: int
    """Connections of asynchronous engines that only the garbage collector gave back."""

    @classmethod
    def now(cls) -> _Facts:
        _watch_sqlalchemy()
        gauges, counters = STATS.gauges(), STATS.counters()
        left = _numbers(gauges, catalogue.ENGINES_ORPHANED, ())
        left.update(_numbers(counters, catalogue.ENGINES_DISPOSED, ("loop_closed",)))
        return cls(
            used=_numbers(gauges, catalogue.POOL_CONNECTIONS, ("used",)),
            left=left,
            conflicts=Counter(_rows(counters, catalogue.LOOP_CONFLICTS)),
            lost=_lost,
        )


class LeakCheck:
    """The process's numbers at one moment, to be compared with those of a later one.

    >>> LeakCheck().problems()
    []
    """

    def __init__(self) -> None:
        self._before = _Facts.now()
        self._allowed: Counter[str] = Counter()

    @contextmanager
    def allowing_checkouts(self) -> Iterator[None]:
        """Connections that are checked out in this block may stay so: they are held by what outlives the check."""
        allowed, used = self._allowed, _Facts.now().used
        yield
        # Not added to what an inner block has allowed, which is part of it.
        self._allowed = allowed + (_Facts.now().used - used)

    def problems(self) -> list[str]:
        """What has come since, a sentence for each pool or kind; empty when all is well."""
        before, now = self._before, _Facts.now()
        # `-` keeps what grew: what was left by an earlier test and is gone since makes up for nothing.
        used = now.used - before.used - self._allowed
        found = [
            f"{_some(number, 'connection')} of {pool!r} still checked out: give it back in the same block, with "
            "`async with engine.connect()`, `async with sessionmaker()` or a fixture that closes it"
            for pool, number in sorted(used.items())
        ]
        # One that an earlier test left checked out, and that is collected only now, is not this one's.
        lost = now.lost - before.lost - (before.used - now.used).total()
        if lost > 0:
            found.append(
                f"{_some(lost, 'connection')} never given back, which the garbage collector had to end: use "
                "`async with engine.connect()` or `async with sessionmaker()`"
            )
        found += [
            f"{_some(number, 'value')} of {pool!r} on an event loop that was closed under it: end a loop by "
            "`asyncio.run` or `asyncio.Runner`, or await `loop.shutdown_asyncgens()` before `loop.close()`; it stays "
            "too when a connection is in use until the loop's end"
            for pool, number in sorted((now.left - before.left).items())
        ]
        for (_, task, resource, kind, source), number in sorted((now.conflicts - before.conflicts).items()):
            where = f" in the task {task}" if task else ""
            found.append(
                f"{_some(number, 'loop conflict')}{where}: {resource}, {kind} (seen by: {source}): something that "
                "belongs to one event loop was used on another"
            )
        return found

    def verify(self) -> None:
        """Raises `LeakError` when there are `problems`."""
        if problems := self.problems():
            raise LeakError(problems)


def _rows(table: Table, metric: Metric) -> dict[Labels, int]:
    rows = table.get(metric.wire_name, {})
    return {labels: int(value) for labels, value in rows.items() if not isinstance(value, list)}


def _numbers(table: Table, metric: Metric, tail: Labels) -> Counter[str]:
    """A family's values by pool, its first label, where the other labels are ``tail``."""
    return Counter({labels[0]: number for labels, number in _rows(table, metric).items() if labels[1:] == tail})


def _some(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number > 1 else "")


_lost = 0
_watching = False


def _watch_sqlalchemy() -> None:
    """From now on counts what SQLAlchemy's finaliser gives back for any asynchronous engine of the process."""
    global _watching
    if not _watching and "sqlalchemy.pool" in sys.modules:
        from sqlalchemy import event
        from sqlalchemy.pool import Pool

        event.listen(Pool, "reset", _count_lost)
        _watching = True


def _count_lost(_connection: object, _record: object, state: Any) -> None:
    global _lost
    # False only in the finaliser, and only for a driver of asyncio's: a synchronous one is given back as ever.
    if not state.asyncio_safe:
        _lost += 1
