"""The errors that loopwatch raises: one base, messages that say the fix, the data as attributes."""

from __future__ import annotations

from functools import partial

__all__ = [
    "BudgetError",
    "ConfigurationError",
    "LoopConflictError",
    "LoopwatchError",
    "MissingExtraError",
    "RunningLoopError",
]


class LoopwatchError(Exception):
    """Base of every error that loopwatch raises.

    >>> import loopwatch
    >>> try:
    ...     loopwatch.budget(10, processes=100)
    ... except LoopwatchError as error:
    ...     print(type(error).__name__)
    BudgetError
    """


class ConfigurationError(LoopwatchError, ValueError):
    """A setting or argument that cannot work; the message names it and the fix.

    >>> import loopwatch
    >>> loopwatch.budget(200, processes=0)
    Traceback (most recent call last):
    loopwatch.errors.ConfigurationError: processes must be a whole number of at least 1, not 0
    """


class BudgetError(ConfigurationError):
    """The connections that were asked for do not fit the server; the message holds the numbers.

    >>> import loopwatch
    >>> loopwatch.budget(20, processes=40)
    Traceback (most recent call last):
    loopwatch.errors.BudgetError: 40 processes x 1 loops need 40 connections at one each, but limit 20 - reserve 2 ...
    """


class MissingExtraError(LoopwatchError, ImportError):
    """A name was used whose third-party package is not installed; the message names the extra.

    >>> print(MissingExtraError("redis_from_url", "redis", "redis"))
    loopwatch.redis_from_url needs the package 'redis', which is not installed: pip install 'loopwatch[redis]'

    Attributes:
        extra: the extra that has it.
    """

    def __init__(self, name: str, package: str, extra: str) -> None:
        super().__init__(
            f"loopwatch.{name} needs the package {package!r}, which is not installed: pip install 'loopwatch[{extra}]'"
        )
        self.extra = extra
        self._arguments = (name, package, extra)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._arguments


class RunningLoopError(LoopwatchError, RuntimeError):
    """``run_async`` was called where an event loop is already running.

    >>> import asyncio, loopwatch
    >>> async def wrong():
    ...     loopwatch.run_async(asyncio.sleep(0))
    >>> asyncio.run(wrong())
    Traceback (most recent call last):
    loopwatch.errors.RunningLoopError: ...
    """


class LoopConflictError(LoopwatchError, RuntimeError):
    """A resource that belongs to one event loop was about to be used on another; refused before its socket was touched.

    >>> try:
    ...     raise LoopConflictError("a client of a closed loop was used", resource="redis", kind="closed_loop")
    ... except RuntimeError as error:
    ...     error.resource, error.kind
    ('redis', 'closed_loop')

    Attributes:
        resource: what was used: ``sqlalchemy``, ``asyncpg``, ``redis``, ``httpx`` ...
        kind: ``cross_loop``, ``closed_loop`` or ``fork_shared``.
        owner: a description of the loop that the resource belongs to.
        user: a description of the loop that it was used on.
        made_at: the stack that made the resource, as Python prints one; empty where it is not known.
    """

    def __init__(
        self, message: str, *, resource: str, kind: str, owner: str = "", user: str = "", made_at: str = ""
    ) -> None:
        super().__init__(message)
        self.resource = resource
        self.kind = kind
        self.owner = owner
        self.user = user
        self.made_at = made_at

    def __reduce__(self) -> tuple[object, ...]:
        # Celery pickles a task's exception on its way to the parent, and keeps a base class of one that cannot be.
        return partial(type(self), resource=self.resource, kind=self.kind), self.args, self.__dict__
