"""Where the parts meet: events come in from the intake's thread, pages go out to the server's.

One lock guards the state. It is held for a small batch of events, or while a slice of one family's series is copied:
text is made outside of it, so that a scrape of a large fleet does not keep the intake from the broker, nor the other
way round.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, islice
from operator import itemgetter

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch_monitor.conflict_log import ConflictLog
from loopwatch_monitor.fair_lock import FairLock
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.negotiate import Format
from loopwatch_monitor.render import Renderer
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.samples import Sample, Samples
from loopwatch_monitor.state.workers import Answer

__all__ = ["Hub"]

logger = structlog.get_logger("loopwatch_monitor")

_COPIED = 32
"""Series that are copied at a time, of several families where they are small: the lock is held for 0.03 ms, and their
text, 90 kB at most, stays in the processor's cache, in memory that need not be asked of the system each time."""
_PAUSE_SECONDS, _PAUSES = 0.005, 600
"""A page gives way to a flood of events, for 3 seconds at most: Prometheus waits 10, if not told otherwise."""
DEAF_SECONDS = 10.0
"""So long after the last tick with a broker, there was none, or the monitor stood still: nobody chose to be silent."""


def _read_clocks() -> Now:
    return Now(time.monotonic(), time.time())


class Hub:
    """The state, its lock, and the page.

    Args:
        settings: the monitor's settings.
        status: what the intake knows of the broker.
        version: the monitor's version.
        reloaded: whether the web configuration in use is what its file says.
        clock: read whenever an event or a page needs the time.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        status: BrokerStatus,
        version: str,
        reloaded: Callable[[], bool] = lambda: True,
        clock: Callable[[], Now] = _read_clocks,
    ) -> None:
        self._clock = clock
        self._status = status
        now = clock()
        self._listened, self._started = now.monotonic, now.wall
        self._created = settings.created_timestamps
        self._lock = FairLock()
        self._fleet = Fleet(
            labels=Labels(settings.static_labels),
            worker_timeout=settings.worker_timeout,
            purge=settings.purge_offline_worker_metrics,
            runtime_buckets=settings.buckets,
            wait_buckets=settings.queue_wait_buckets,
            default_queue=settings.default_queue_name,
            on_duplicate=_warn_of_duplicate,
            on_conflict=ConflictLog(texts=settings.conflict_texts),
            queues=settings.queues,
            slots=settings.slots,
            generic_sender=settings.generic_hostname_task_sent_metric,
            generic_worker=settings.generic_hostname_worker_task_metric,
        )
        self._samples = Samples(self._fleet, version=version)
        self._renderer = Renderer(
            celery_prefix=settings.metric_prefix,
            buckets={
                catalogue.TASK_RUNTIME: settings.buckets,
                catalogue.TASK_QUEUE_WAIT: settings.queue_wait_buckets,
            },
        )
        self._told: dict[Metric, Callable[[], float]] = {
            catalogue.MONITOR_BROKER_UP: lambda: int(status.up),
            catalogue.MONITOR_RECONNECTS: lambda: status.lost,
            catalogue.MONITOR_BROKER_DOWN: status.seconds_down,
            catalogue.MONITOR_BUFFER: lambda: status.buffered,
            catalogue.MONITOR_WEB_CONFIG_RELOADED: lambda: int(reloaded()),
        }
        self._process = CollectorRegistry(auto_describe=True)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            self._process.register(_Labelled(collector(registry=CollectorRegistry()), settings.static_labels))

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

    def queues(self) -> list[str]:
        """The names of all queues that are known."""
        with self._lock:
            return [*self._fleet.queues.known]

    def strangers(self) -> set[str]:
        """Workers that are up and of which nobody knows what they consume."""
        with self._lock:
            return {hostname for hostname, queues, _ in self._fleet.consumption() if not queues}

    def measured(self, depths: Mapping[str, Depth]) -> None:
        """Takes in what the broker says of the queues."""
        with self._lock:
            self._fleet.measured(depths, self._clock())

    def answered(self, answers: Mapping[str, Answer]) -> None:
        """Takes in what workers said of themselves."""
        with self._lock:
            self._fleet.answered(answers, self._clock())

    def unanswered(self, poll: str) -> None:
        """Notes that a question was not answered."""
        with self._lock:
            self._fleet.polls.failed(poll)

    def events(self) -> int:
        """How many events were folded."""
        return sum(self._fleet.ledger.events.values())

    def tick(self) -> None:
        """Lets time pass; to be called about once a second."""
        with self._lock:
            now = self._clock()
            listening = self._status.up
            if listening:
                if now.monotonic - self._listened > DEAF_SECONDS:
                    self._fleet.excuse(now.monotonic - self._listened, now)
                self._listened = now.monotonic
            self._fleet.tick(now, purge=listening)

    def page(self) -> bytes:
        """The whole exposition in the text format."""
        return b"".join(self.pieces())

    def pieces(self, form: Format = Format.TEXT, names: frozenset[str] = frozenset()) -> Iterator[bytes]:
        """The exposition, piece by piece. Asks nobody: everything is already here.

        Args:
            form: the format.
            names: families (or samples of theirs) to be shown alone; none = all.
        """
        wanted = (metric for metric in catalogue.METRICS if not names or not names.isdisjoint(self._names(metric)))
        for metric, copies in groupby(self._copies(wanted), key=itemgetter(0)):
            for text in self._family(metric, (samples for _, samples in copies), form):
                # A lone surrogate in a task's name must not cost the page.
                yield text.encode("utf-8", "replace")
        process = self._process.restricted_registry(names) if names else self._process
        if form is Format.OPENMETRICS:
            yield generate_openmetrics(process)  # type: ignore[no-untyped-call]  # with its "# EOF"
        else:
            yield generate_latest(process)

    def _names(self, metric: Metric) -> set[str]:
        name = self._renderer.name(metric)
        samples = (name + sample.removeprefix(metric.name) for sample in metric.sample_names())
        return {name, name.removesuffix("_total"), *samples}

    def _family(self, metric: Metric, copies: Iterable[list[Sample]], form: Format) -> Iterator[str]:
        created = self._birthdays(metric) if self._created and metric.kind != "gauge" else None
        apart = []
        head = self._renderer.head(metric, form)
        for samples in copies:
            if created is not None and form is Format.TEXT:
                apart += samples
            yield head + self._renderer.lines(metric, samples, created if form is Format.OPENMETRICS else None)
            head = ""
        if apart and created is not None:
            yield self._renderer.created_family(metric, apart, created)

    def _birthdays(self, metric: Metric) -> Mapping[str, float]:
        if metric.origin == "monitor":
            return defaultdict(lambda: self._started)
        with self._lock:
            return self._samples.created(metric)

    def _copies(self, metrics: Iterable[Metric]) -> Iterator[tuple[Metric, list[Sample]]]:
        """The series of each family that has any, in pieces. The lock is held for `_COPIED` of them."""
        pieces = self._pieces(metrics)
        pauses = iter(range(_PAUSES))
        while True:
            # A page may be late; what an intake does not read in time, Redis throws away.
            while self._status.flooded and next(pauses, None) is not None:
                time.sleep(_PAUSE_SECONDS)
            copied, count = [], 0
            with self._lock:
                while count < _COPIED and (piece := next(pieces, None)) is not None:
                    copied.append(piece)
                    count += len(piece[1])
            if not copied:
                return
            yield from copied

    def _pieces(self, metrics: Iterable[Metric]) -> Iterator[tuple[Metric, list[Sample]]]:
        for metric in metrics:
            series = self._read(metric)
            while samples := [*islice(series, _COPIED)]:
                yield metric, samples

    def _read(self, metric: Metric) -> Iterator[Sample]:
        told = self._told.get(metric)
        if told is not None:
            return iter([(self._fleet.labels.text((), ()), told())])
        return self._samples.read(metric, self._clock())


class _Labelled(Collector):
    """A collector of prometheus_client's with labels added."""

    def __init__(self, collector: Collector, labels: Mapping[str, str]) -> None:
        self._collector = collector
        self._labels = labels

    def collect(self) -> Iterator[Family]:
        """What it collects."""
        for family in self._collector.collect():
            family.samples = [sample._replace(labels={**self._labels, **sample.labels}) for sample in family.samples]
            yield family


def _warn_of_duplicate(hostname: str) -> None:
    logger.warning(
        "duplicate_node_name", hostname=hostname, fix="give each worker its own --hostname (such as logs@%h)"
    )
