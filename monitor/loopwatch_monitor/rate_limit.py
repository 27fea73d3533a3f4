"""A rate limit, and the bucket of tokens that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RateLimit", "TokenBucket"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: ``burst`` requests at once, and one more each ``interval`` seconds."""

    interval: float
    burst: int


class TokenBucket:
    """Lets ``burst`` requests through at once, and one more each ``interval`` seconds.

    >>> now = iter([0.0, 0.0, 0.0, 1.0]).__next__
    >>> bucket = TokenBucket(RateLimit(interval=1.0, burst=1), now)
    >>> bucket.take(), bucket.take(), bucket.take()
    (True, False, True)
    """

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._tokens = float(limit.burst)
        self._filled = clock()

    def take(self) -> bool:
        """Takes a token, if there is one."""
        now = self._clock()
        self._tokens = min(self._limit.burst, self._tokens + (now - self._filled) / self._limit.interval)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
