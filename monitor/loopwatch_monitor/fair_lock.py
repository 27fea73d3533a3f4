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

    def __enter__(self) -> None:
        with self._next:
            self._held.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.release()
