"""How long the tests wait; and what gives up sooner in a worker's process, told to wait as long.

The seconds of production have nothing to do with what these workers are run for.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from loopwatch.telemetry import reporter

__all__ = ["DEADLINE", "be_patient"]

DEADLINE = 60.0
"""Seconds to wait for what must come; a machine under load is slow."""


def be_patient(app: Celery[Any]) -> None:
    """For an application whose worker a test starts."""
    # A child that has not told within 4 seconds that it is up is killed. A spawned one has everything to import first.
    app.conf.worker_proc_alive_timeout = DEADLINE
    # The last snapshot, for which a worker that ends waits for a second.
    reporter.STOP_TIMEOUT = DEADLINE
