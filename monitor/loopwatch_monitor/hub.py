"""Where the parts meet: events come in from the intake's thread, pages go out to the server's.

One lock guards the state. It is held for a small batch of events, or while one family's series are copied: text is made
outside of it, so that a scrape of a large fleet does not keep the intake from the broker, nor the other way round.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from loopwatch.telemetry import catalogue
from loopwatch_monitor.fair_lock import FairLock
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.render import Renderer
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.samples import Sample, Samples

__all__ = ["Hub"]

logger = structlog.get_logger("loopwatch_monitor")


def _read_clocks() -> Now:
    return Now(time.monotonic(), time.time())


class Hub:
    """The state, its lock, and the page.

    Args:
        settings: the monitor's settings.
        status: what the intake knows of the broker.
        version: the monitor's version.
        clock: read whenever an event or a page needs the time.
    """

    def __init__(
        self, settings: Settings, *, status: BrokerStatus, version: str, clock: Callable[[], Now] = _read_clocks
    ) -> None:
        self._clock = clock
        self._lock = FairLock()
        self._fleet = Fleet(
            labels=Labels(settings.static_labels),
            worker_timeout=settings.worker_timeout,
            purge=settings.purge_offline_worker_metrics,
            runtime_buckets=settings.buckets,
            wait_buckets=settings.queue_wait_buckets,
            default_queue=settings.default_queue_name,
            on_duplicate=_warn_of_duplicate,
        )
        self._samples = Samples(self._fleet, version=version)
        self._renderer = Renderer(
            celery_prefix=settings.metric_prefix,
            buckets={
                catalogue.TASK_RUNTIME: settings.buckets,
                catalogue.TASK_QUEUE_WAIT: settings.queue_wait_buckets,
            },
        )
        self._told_by_intake: dict[catalogue.Metric, Callable[[], float]] = {
            catalogue.MONITOR_BROKER_UP: lambda: int(status.up),
            catalogue.MONITOR_RECONNECTS: lambda: status.lost,
            catalogue.MONITOR_BROKER_DOWN: status.seconds_down,
            catalogue.MONITOR_BUFFER: lambda: status.buffered,
        }
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)

    def receive(self, batch: Batch, wait: float = -1) -> bool:
        """Takes in what an intake read; never raises. The state is locked for all of it: a batch must be small.

        Waits for the lock about ``wait`` seconds at most (-1: for ever); ``False``: it was not taken in, try again.
        """
        if not self._lock.acquire(wait):
            return False
        try:
            self._take_in(batch)
        finally:
            self._lock.release()
        return True

    def _take_in(self, batch: Batch) -> None:
        ledger, fold = self._fleet.ledger, self._fleet.fold
        ledger.malformed.update(batch.malformed)
        ledger.lost.update(batch.lost)
        now = self._clock()
        for event in batch.events:
            try:
                fold(event, now)
            except Exception:
                # Nothing in an event may end the process, whatever we did not think of.
                ledger.malformed["error"] += 1
                logger.exception("event_not_folded", event_type=event.kind)

    def events(self) -> int:
        """How many events were folded."""
        return sum(self._fleet.ledger.events.values())

    def tick(self) -> None:
        """Lets time pass; to be called about once a second."""
        with self._lock:
            self._fleet.tick(self._clock())

    def page(self) -> bytes:
        """The whole exposition. Asks nobody: everything is already here."""
        parts = [self._renderer.family(metric, self._read(metric)) for metric in catalogue.METRICS]
        # A lone surrogate in a task's name must not cost the page.
        return "".join(parts).encode("utf-8", "replace") + generate_latest(self._process)

    def _read(self, metric: catalogue.Metric) -> list[Sample]:
        told = self._told_by_intake.get(metric)
        if told is not None:
            return [(self._fleet.labels.text((), ()), told())]
        with self._lock:
            return list(self._samples.read(metric, self._clock()))


def _warn_of_duplicate(hostname: str) -> None:
    logger.warning(
        "duplicate_node_name", hostname=hostname, fix="give each worker its own --hostname (such as logs@%h)"
    )
