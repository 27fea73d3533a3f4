"""A fleet with a clock that the test moves, and short ways to make events."""

from __future__ import annotations

from typing import Any

from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import Table, Value, encode_table
from loopwatch_monitor.intake import events
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.samples import Samples
from loopwatch_monitor.state.workers import Answer

WALL = 1_000_000.0


def batch(body: bytes, content_type: str = "application/json") -> Batch:
    """What an intake makes of one message."""
    read = Batch()
    read.add(body, content_type)
    return read


class Monitored:
    """Folds events at `now` (seconds since the start) and reads series as ``{label text: value}``."""

    def __init__(self, **options: Any) -> None:
        self.duplicates: list[str] = []
        self.fleet = Fleet(labels=Labels(), on_duplicate=self.duplicates.append, **options)
        self._samples = Samples(self.fleet, version="1")
        self.now = 0.0

    @property
    def clock(self) -> Now:
        return Now(self.now, WALL + self.now)

    def fold(self, *arrived: events.AnyEvent | events.OtherEvent) -> None:
        for event in arrived:
            self.fleet.fold(event, self.clock)

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.fleet.tick(self.clock)

    def series(self, metric: Metric) -> dict[str, Value]:
        return dict(self._samples.read(metric, self.clock))

    def only(self, metric: Metric) -> Value:
        """The value of a family's only series."""
        ((_, value),) = self.series(metric).items()
        return value

    @property
    def dropped(self) -> dict[str, int]:
        """By family, what found no room; those that dropped nothing are left out."""
        return {family: count for family, count in self.fleet.ledger.dropped.items() if count}

    def heartbeat(self, hostname: str = "w@h", active: int = 0, processed: int = 0) -> None:
        self.fold(events.WorkerHeartbeat(hostname=hostname, timestamp=0.0, active=active, processed=processed))

    def answer(self, *queues: str, hostname: str = "w@h", processes: int = 1, processed: int | None = None) -> None:
        self.fleet.answered({hostname: Answer(queues, processes, processed)}, self.clock)

    def measure(self, **lengths: int) -> None:
        self.fleet.measured({name: Depth(length) for name, length in lengths.items()}, self.clock)

    def sent(self, uuid: str = "1", *, name: str = "t", queue: str | None = "q", at: float = 1.0, **more: Any) -> None:
        self.fold(events.TaskSent(hostname="gen1@h", timestamp=at, uuid=uuid, name=name, queue=queue, **more))

    def received(self, uuid: str = "1", *, name: str | None = "t", hostname: str = "w@h") -> None:
        self.fold(events.TaskReceived(hostname=hostname, timestamp=0.0, uuid=uuid, name=name))

    def started(self, uuid: str = "1", *, hostname: str = "w@h", at: float = 0.0) -> None:
        self.fold(events.TaskStarted(hostname=hostname, timestamp=at, uuid=uuid))

    def failed(self, uuid: str = "1", *, hostname: str = "w@h", exception: str = "E()", traceback: str = "") -> None:
        self.fold(
            events.TaskFailed(
                hostname=hostname, timestamp=0.0, uuid=uuid, exception=exception, traceback=traceback or None
            )
        )

    def snapshot(
        self,
        seq: int = 1,
        *,
        hostname: str = "w@h",
        boot: str = "a",
        counters: Table | None = None,
        gauges: dict[int, Table] | None = None,
        stopping: bool = False,
        interval: float = 5.0,
        **info: Any,
    ) -> None:
        self.fold(
            events.Snapshot(
                hostname=hostname,
                timestamp=0.0,
                version=1,
                boot=boot,
                seq=seq,
                interval=interval,
                info=events.SnapshotInfo(**info),
                counters=encode_table(counters or {}),
                gauges={str(slot): encode_table(table) for slot, table in (gauges or {}).items()},
                stopping=stopping,
            )
        )
