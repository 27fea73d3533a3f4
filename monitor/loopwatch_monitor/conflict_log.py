"""The log of loop conflicts that were reported whole: no more lines than can be read. The state is locked meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from loopwatch_monitor.intake.events import ConflictReport
from loopwatch_monitor.rate_limit import RateLimit, TokenBucket

__all__ = ["BURST", "MAX_TEXT", "ConflictLog"]

logger = structlog.get_logger("loopwatch_monitor")

MAX_TEXT = 2_000
"""Characters of a text that is logged."""
BURST, INTERVAL = 100, 1.0
"""So many at once, and one each so many seconds: a node sends a few a minute, but there may be many, or liars."""
_TEXTS = ("resource", "source", "queue_name", "task_name", "task_id", "made_at", "used_at")


class ConflictLog:
    """Logs reports.

    Args:
        texts: whether with what the exception says, which may be the users' data.
        clock: monotonic seconds.
    """

    def __init__(self, *, texts: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._texts = (*_TEXTS, "message") if texts else _TEXTS
        self._bucket = TokenBucket(RateLimit(INTERVAL, BURST), clock)
        self._left_out = 0

    def __call__(self, report: ConflictReport) -> None:
        """Logs one, or says with the next one that it was left out."""
        if not self._bucket.take():
            self._left_out += 1
            return
        more, self._left_out = {"left_out_before": self._left_out} if self._left_out else {}, 0
        logger.warning(
            "loop_conflict_reported",
            hostname=report.hostname,
            kind=report.conflict_kind[:MAX_TEXT],
            occurred=report.occurred,
            **{name: getattr(report, name)[:MAX_TEXT] for name in self._texts},
            **more,
        )
