"""A thread that keeps a connection to the broker and hands on what comes from it, for ever.

A connection that is lost is made anew with backoff and jitter. What differs from broker to broker is how to connect
and how to consume: `loopwatch_monitor.intake.redis` and `loopwatch_monitor.intake.kombu`.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import structlog

from loopwatch_monitor.intake.batch import Sink
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.intake.urls import masked, passwords, reason

__all__ = ["ASK_SECONDS", "CONNECT_TIMEOUT", "Intake"]

logger = structlog.get_logger("loopwatch_monitor")

CONNECT_TIMEOUT = 5
ASK_SECONDS = 5.0
"""How often a broker is asked whether it is still there: one may fall silent without closing its connection."""
BACKOFF_SECONDS = (0.5, 15.0)
"""The first and the longest pause between two attempts to connect."""


class Intake(ABC):
    """Consumes events in a thread.

    Args:
        url: the broker's URL, of which the log tells all but the passwords.
        options: for its transport.
        sink: called in the thread with what was read.
        status: kept true to the state of the connection.

    Attributes:
        retry_seconds: the longest pause between two attempts to connect; 0 = `BACKOFF_SECONDS`'.
    """

    def __init__(self, url: str, options: Mapping[str, Any], *, sink: Sink, status: BrokerStatus) -> None:
        self.retry_seconds = 0.0
        self._url = url
        self._masked = masked(url)
        self._secrets = passwords(url, options)
        self._sink = sink
        self._status = status
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loopwatch-intake", daemon=True)

    def probe(self) -> None:
        """Connects once and lets go; raises `BrokerUnreachableError`."""
        try:
            self._try()
        except Exception as error:  # noqa: BLE001  # any of a dozen libraries' errors says the same
            raise BrokerUnreachableError(f"{self._masked}: {reason(error, self._secrets)}") from None

    def start(self) -> None:
        """Begins to consume."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; one that hangs in the broker's socket is left to die with the process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    @abstractmethod
    def _try(self) -> None:
        """Connects once and lets go; raises what went wrong."""

    @abstractmethod
    def _consume(self) -> None:
        """Connects, and consumes until ``_stopping`` is set; raises when the connection cannot be made or is lost."""

    def _rest(self, seconds: float) -> None:
        """Passes the time until the next attempt to connect."""
        self._stopping.wait(seconds)

    def _connected(self) -> None:
        self._status.connected()
        logger.info("broker_connected", broker=self._masked)

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            try:
                self._consume()
            except Exception as error:  # noqa: BLE001  # whatever it is, the cure is the same: try again, for ever
                attempt = 0 if self._status.up else attempt + 1
                pause = _backoff(attempt, self.retry_seconds)
                logger.warning(
                    "broker_lost" if self._status.up else "broker_unreachable",
                    broker=self._masked,
                    error=reason(error, self._secrets),
                    retry_in_seconds=round(pause, 2),
                )
                self._status.disconnected()
                self._rest(pause)


def _backoff(attempt: int, most: float) -> float:
    """Seconds until the next attempt; jittered, so that many monitors do not come back at one moment."""
    first, longest = BACKOFF_SECONDS
    pause: float = min(most or longest, first * 2 ** min(attempt, 10))
    return pause * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
