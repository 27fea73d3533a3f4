"""A worker's parent process: reads what its pool children tell, and reports for all of them."""

from __future__ import annotations

import time
from typing import Any

from loopwatch._version import __version__
from loopwatch.celery.identity import Queues, pool_name
from loopwatch.celery.publisher import EventPublisher, celery_version
from loopwatch.celery.spawned import invite, is_spawning, withdraw
from loopwatch.telemetry.channel import Channel
from loopwatch.telemetry.reporter import Reporter
from loopwatch.telemetry.wire import NodeInfo

__all__ = ["Node"]


class Node:
    """One worker. Made before its pool, so that children inherit the channel; started when the worker is ready."""

    def __init__(self, worker: Any, queues: Queues, *, interval: float, release: str) -> None:
        self._worker = worker
        self._queues = queues
        self._release = release
        self._start_time = time.time()
        self._started = False
        self.channel = Channel()
        if is_spawning(worker):
            invite(self.channel, list(worker.app.amqp.queues.consume_from))
        self._reporter = Reporter(
            EventPublisher(worker.app, worker.hostname),
            interval=interval,
            info=self._info,
            children=self.channel.tables,
        )

    def in_parent(self) -> bool:
        """Whether this is the worker's parent process: the one that made this object."""
        return self.channel.in_parent()

    def start(self) -> None:
        """Starts the threads, once: a worker is ready again after each reconnection to its broker."""
        if not self._started:
            self._started = True
            self.channel.start()
            self._reporter.start()

    def stop(self) -> None:
        """Publishes the last snapshot and ends; waits for a second at most."""
        self._reporter.stop()
        self.channel.close()
        withdraw()

    def _info(self) -> NodeInfo:
        worker = self._worker
        return NodeInfo(
            kind="celery",
            pool_type=pool_name(worker.pool_cls),
            queues=self._queues.consumed(),
            slots=int(getattr(worker.pool, "num_processes", 0) or worker.concurrency),
            start_time=self._start_time,
            celery_version=celery_version(),
            loopwatch_version=__version__,
            release=self._release,
        )
