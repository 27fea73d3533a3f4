"""A lock that is handed over: who waits for it gets it next, even from a thread that wants it again at once."""

from __future__ import annotations

import threading
from types import TracebackType

__all__ = ["FairLock"]


class FairLock:
    """Mutual exclusion among a few threads. Python's own lock may starve those who wait while one thread takes it over
    and over: it is free for less time than a waiter needs to wake up.

    >>> with FairLock():
    ...     pass
    """

    def __init__(self) -> None:
        self._held = threading.Lock()
        self._next = threading.Lock()
        """Held by the one who is next."""

    def acquire(self, timeout: float = -1) -> bool:
        """Takes the lock; waits about ``timeout`` seconds for it at most, and says whether it got it. -1: for ever."""
        if not self._next.acquire(timeout=timeout):
            return False
        try:
            return self._held.acquire(timeout=timeout)
        finally:
            self._next.release()

    def release(self) -> None:
        """Gives it back."""
        self._held.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
