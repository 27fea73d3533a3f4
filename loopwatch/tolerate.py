"""An auxiliary operation that may fail: bounded in time, warned about and counted, never raised.

The second of three layers of failure: the critical one raises, this one warns, monitoring is silent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from traceback import format_exception
from types import TracebackType
from typing import Literal

from loopwatch.conflicts import count_once
from loopwatch.errors import ConfigurationError
from loopwatch.redact import redact
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, current_task

__all__ = ["Failure", "Reason", "tolerated"]

logger = logging.getLogger("loopwatch")

Reason = Literal["timeout", "loop_conflict", "error"]
_REASONS: tuple[Reason, ...] = ("timeout", "loop_conflict", "error")


@dataclass(frozen=True, slots=True)
class Failure:
    """How a tolerated operation failed.

    Attributes:
        operation: its name.
        reason: ``timeout`` (ours, or a `TimeoutError` of the operation's own), ``loop_conflict`` or ``error``.
        error: the exception that was swallowed.
        timeout: the seconds it was allowed, ``None`` without a limit.
    """

    operation: str
    reason: Reason
    error: Exception
    timeout: float | None


class tolerated:  # noqa: N801  # used as `async with tolerated(...)`, like asyncio.timeout
    """Runs the body of an ``async with`` as an operation that may fail.

    An ordinary exception is swallowed, logged as a warning and counted by reason; so is the body's running longer than
    ``timeout``. What is not the operation's own passes: cancellation from outside, an outer timeout, Celery's
    ``SoftTimeLimitExceeded``, `KeyboardInterrupt`, `SystemExit`.

    >>> async def store_and_notify():
    ...     async with tolerated("notify", timeout=5, on_failure=print) as notification:
    ...         raise ConnectionError("no answer")
    ...     return notification.reason
    >>> asyncio.run(store_and_notify())
    Failure(operation='notify', reason='error', error=ConnectionError('no answer'), timeout=5)
    'error'

    Args:
        operation: a label of the metrics: a fixed name such as ``"notify"``, never an id.
        timeout: seconds, or ``None`` for no limit.
        on_failure: called with the `Failure`, in place of the warning in our log; what it raises is logged.

    After the body, ``failed``, ``reason`` and ``error`` of the object tell what became of it.
    """

    def __init__(
        self,
        operation: str,
        *,
        timeout: float | None = 5.0,
        on_failure: Callable[[Failure], object] | None = None,
    ) -> None:
        given: object = operation  # not all who call are type-checked, and a label that is no text fails when counted
        if not given or not isinstance(given, str):
            raise ConfigurationError(f"operation must be a name such as 'notify', not {operation!r}")
        if timeout is not None and not 0 < timeout < math.inf:
            raise ConfigurationError(f"timeout must be seconds above 0, or None for no limit, not {timeout!r}")
        self.operation = operation
        self.failure: Failure | None = None
        self._timeout = timeout
        self._on_failure = on_failure
        self._deadline: asyncio.Timeout | None = None
        self._handled: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether the operation failed."""
        return self.failure is not None

    @property
    def reason(self) -> Reason | None:
        """``timeout``, ``loop_conflict`` or ``error``; ``None`` when it did not fail."""
        return self.failure.reason if self.failure else None

    @property
    def error(self) -> Exception | None:
        """The exception that was swallowed."""
        return self.failure.error if self.failure else None

    async def __aenter__(self) -> tolerated:
        if self._deadline is not None:
            raise RuntimeError("a tolerated() object runs one operation: make a new one for the next")
        queue = current_task.get().queue_name
        STATS.count(catalogue.NOTIFICATIONS, (queue, self.operation))
        for reason in _REASONS:
            STATS.count(catalogue.NOTIFICATION_FAILURES, (queue, self.operation, reason), 0)
        # Often used in an `except`: what is being handled there is in the context of whatever the body raises.
        self._handled = sys.exc_info()[1]
        self._deadline = asyncio.timeout(self._timeout)
        await self._deadline.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert self._deadline is not None
        try:
            await self._deadline.__aexit__(kind, error, traceback)
        except TimeoutError as ours:
            error = ours
        if not isinstance(error, Exception) or _is_the_tasks_own(error):
            return False
        # A client may wrap the cancellation that our timeout sent it into an error of its own.
        self._fail(error, late=isinstance(error, TimeoutError) or self._deadline.expired())
        return True

    def _fail(self, error: Exception, *, late: bool) -> None:
        conflict = count_once(error, source="exception", handled=self._handled)
        reason: Reason = "loop_conflict" if conflict else "timeout" if late else "error"
        self.failure = Failure(self.operation, reason, error, self._timeout)
        STATS.count(catalogue.NOTIFICATION_FAILURES, (current_task.get().queue_name, self.operation, reason))
        try:
            (self._on_failure or _warn)(self.failure)
        except Exception:
            logger.exception("on_failure of the tolerated operation %r raised", self.operation)


def _is_the_tasks_own(error: Exception) -> bool:
    """Whether it is a soft time limit, by name: only `loopwatch.celery` imports Celery (billiard)."""
    return any(cls.__name__ == "SoftTimeLimitExceeded" for cls in type(error).__mro__)


def _warn(failure: Failure) -> None:
    if failure.reason == "timeout":
        logger.warning("%s: no answer within %s s", failure.operation, failure.timeout)
        return
    told = "".join(format_exception(failure.error))
    shown = redact(told)
    if shown == told:
        logger.warning("%s failed (%s): %s", failure.operation, failure.reason, failure.error, exc_info=failure.error)
    else:  # what a logging handler makes of `exc_info` is not ours to clean
        logger.warning("%s failed (%s):\n%s", failure.operation, failure.reason, shown.rstrip())
