"""A question that is asked again and again. One that fails costs freshness: the last answer stays, and ages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from loopwatch_monitor.intake.urls import masked, passwords, reason

__all__ = ["Poll"]

logger = structlog.get_logger("loopwatch_monitor")

STEP_SECONDS = 5.0


class Poll:
    """Asks in a daemon thread.

    Args:
        name: as in the metrics.
        url: the broker's, for the log, which tells all but the passwords.
        options: for its transport.
        seconds: from one question to the next.
        ask: asks and hands on the answer; what it raises is counted and logged.
        failed: told that there was no answer.
        hurry: whether to ask sooner (5 seconds after the last question at the earliest).
    """

    def __init__(
        self,
        name: str,
        *,
        url: str,
        options: Mapping[str, Any] | None = None,
        seconds: float,
        ask: Callable[[], None],
        failed: Callable[[], None],
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self._masked = masked(url)
        self._secrets = passwords(url, options)
        self._seconds = seconds
        self._ask = ask
        self._failed = failed
        self._hurry = hurry
        self._stopping = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"loopwatch-poll-{name}", daemon=True)

    def start(self) -> None:
        """Begins to ask."""
        self._thread.start()

    def close(self) -> None:
        """Asks no more. A question that is under way is left to die with the process: it may hang in a socket."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            asked = time.monotonic()
            self.ask()
            while not self._stopping.wait(min(STEP_SECONDS, self._seconds)):
                if time.monotonic() - asked >= self._seconds or self._hurry():
                    break

    def ask(self) -> None:
        """Asks once; never raises."""
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001  # any of a dozen libraries' errors says the same
            self._failed()
            if not self._failing and not self._stopping.is_set():
                logger.warning("poll_failed", poll=self.name, broker=self._masked, error=reason(error, self._secrets))
            self._failing = True
        else:
            if self._failing:
                logger.info("poll_answered", poll=self.name, broker=self._masked)
            self._failing = False
