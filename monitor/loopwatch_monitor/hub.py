"""Where the parts meet: message bodies come in from the intake's thread, pages go out to the server's.

One lock guards the state. It is held for one message, or while one family's series are copied: text is made outside
of it, so that a scrape of a large fleet does not keep the intake from the broker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from loopwatch.telemetry import catalogue
from loopwatch_monitor.intake.decode import ConflictReport, accepts, decode
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.render import Renderer
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.samples import Sample, Samples

__all__ = ["Hub"]

logger = structlog.get_logger("loopwatch_monitor")

MAX_TEXT = 2_000
"""Characters of a text that is logged."""


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
        self._status = status
        self._lock = threading.Lock()
        self._fleet = Fleet(
            labels=Labels(settings.static_labels),
            worker_timeout=settings.worker_timeout,
            purge=settings.purge_offline_worker_metrics,
            runtime_buckets=settings.buckets,
            wait_buckets=settings.queue_wait_buckets,
            default_queue=settings.default_queue_name,
            on_duplicate=_warn_of_duplicate,
            on_conflict=_log_conflict,
        )
        self._samples = Samples(self._fleet, version=version)
        self._renderer = Renderer(
            celery_prefix=settings.metric_prefix,
            buckets={
                catalogue.TASK_RUNTIME: settings.buckets,
                catalogue.TASK_QUEUE_WAIT: settings.queue_wait_buckets,
            },
        )
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)

    def receive(self, body: bytes, content_type: str | None) -> None:
        """Takes in one message; never raises."""
        with self._lock:
            ledger = self._fleet.ledger
            if not accepts(content_type):
                ledger.malformed["content_type"] += 1
                return
            now = self._clock()
            for event in decode(body, ledger.malformed):
                try:
                    self._fleet.fold(event, now)
                except Exception:
                    # Nothing in an event may end the process, whatever we did not think of.
                    ledger.malformed["error"] += 1
                    logger.exception("event_not_folded", event_type=event.kind)

    def refuse(self, reason: str) -> None:
        """Counts a message that its transport could not unwrap."""
        with self._lock:
            self._fleet.ledger.malformed[reason] += 1

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
        if metric is catalogue.MONITOR_BROKER_UP:
            return [(self._fleet.labels.text((), ()), int(self._status.up))]
        if metric is catalogue.MONITOR_RECONNECTS:
            return [(self._fleet.labels.text((), ()), self._status.lost)]
        with self._lock:
            return list(self._samples.read(metric, self._clock()))


def _warn_of_duplicate(hostname: str) -> None:
    logger.warning(
        "duplicate_node_name", hostname=hostname, fix="give each worker its own --hostname (such as logs@%h)"
    )


def _log_conflict(report: ConflictReport) -> None:
    texts = ("resource", "source", "queue_name", "task_name", "task_id", "message", "made_at", "used_at")
    logger.warning(
        "loop_conflict_reported",
        hostname=report.hostname,
        kind=report.conflict_kind[:MAX_TEXT],
        occurred=report.occurred,
        **{name: getattr(report, name)[:MAX_TEXT] for name in texts},
    )
