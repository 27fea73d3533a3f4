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
    """Base of every error that loopwatch raises."""


class ConfigurationError(LoopwatchError, ValueError):
    """A setting or argument that cannot work; the message names it and the fix."""


class BudgetError(ConfigurationError):
    """The connections that were asked for do not fit the server; the message holds the numbers."""


class MissingExtraError(LoopwatchError, ImportError):
    """A name was used whose third-party package is not installed; the message names the extra."""

    def __init__(self, name: str, package: str, extra: str) -> None:
        super().__init__(
            f"loopwatch.{name} needs the package {package!r}, which is not installed: pip install 'loopwatch[{extra}]'"
        )
        self.extra = extra
        self._arguments = (name, package, extra)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._arguments


class RunningLoopError(LoopwatchError, RuntimeError):
    """``run_async`` was called where an event loop is already running."""


class LoopConflictError(LoopwatchError, RuntimeError):
    """A resource that belongs to one event loop was about to be used on another; refused before its socket was touched.

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
