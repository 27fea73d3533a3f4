"""Memory under churn: a fleet whose workers, node names, tasks and queues never stay, folded for days of its time.

``python -m benchmarks.churn``: 10 million events over 100,000 lives of 5,000 node names, and the RSS on the way. `make
bench` takes a fifth of it (`SMALL`), with a table of tasks that is full as soon.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from pathlib import Path
from resource import getpagesize

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.wire import encode_table
from loopwatch_monitor.intake import events
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.samples import Samples
from loopwatch_monitor.state.tasks import MAX_TASKS

__all__ = ["SMALL", "Churn", "apart", "churn", "fold_churn"]

ALIVE = 200
"""Workers that live at a time."""
TASK_NAMES, QUEUES, CLASSES = 40, 20, 30
EVENTS_PER_TASK = 2.3
TICK_SECONDS = 30.0
EVENT_SECONDS = 5 * 24 * 3600.0 / 10_000_000
"""From one event to the next by the fleet's clock: ten million last for five days."""
SMALL = {"events": 2_000_000, "lives": 20_000, "max_tasks": 20_000}


@dataclass(frozen=True)
class Churn:
    """What it came to: RSS in bytes before, after each tenth, and the tables' entries and limits at the end."""

    before: int
    tenths: list[int]
    tables: dict[str, tuple[int, int]]

    @property
    def growth(self) -> float:
        """The RSS at the end to that after seven tenths, when even the table of tasks is full of what is lost."""
        return self.tenths[-1] / self.tenths[6]


def churn(events: int = 10_000_000, lives: int = 100_000, hosts: int = 5_000, max_tasks: int = MAX_TASKS) -> Churn:
    """Folds the stream and measures this process."""
    fleet = Fleet(labels=Labels(), max_tasks=max_tasks)
    before, tenth, seconds = _rss(), events // 10, events * EVENT_SECONDS
    tenths = [_rss() for number in fold_churn(fleet, events, lives, hosts, seconds=seconds) if number % tenth == 0]
    return Churn(before, tenths, Samples(fleet, version="1").tables())


def apart(**arguments: int) -> Churn:
    """`churn` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.churn", json.dumps(arguments)]
    return Churn(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def fold_churn(fleet: Fleet, events: int, lives: int, hosts: int, *, seconds: float) -> Iterator[int]:
    """Folds the stream, which lasts so many seconds by the fleet's clock; yields after each 10,000 events how many that
    were."""
    now = Now(0.0, 1e9)
    ticked = 0.0
    for number, event in enumerate(_stream(events, lives, hosts), start=1):
        now = Now(number * seconds / events, 1e9 + number * seconds / events)
        fleet.fold(event, now)
        if now.monotonic - ticked >= TICK_SECONDS:
            ticked = now.monotonic
            fleet.tick(now)
        if number % 10_000 == 0:
            yield number


def _stream(events: int, lives: int, hosts: int) -> Iterator[events.AnyEvent]:
    """Lives follow one another on `ALIVE` places; each takes the next host's name, and the names come round again."""
    steps = round(events / lives / EVENTS_PER_TASK)
    places = ((turn * ALIVE + place, step) for turn in count() for step in range(steps) for place in range(ALIVE))
    return islice(chain.from_iterable(_task(f"w{life % hosts}@h", life, step) for life, step in places), events)


def _task(hostname: str, life: int, step: int) -> Iterator[events.AnyEvent]:
    """One task's events, some of which never come; or news of its worker."""
    uuid, name = f"{life}-{step}", f"app.task{life % TASK_NAMES}"
    stamp = float(life)
    if step % 10 == 0:
        yield events.WorkerHeartbeat(hostname=hostname, timestamp=stamp, active=1, processed=step)
        yield _snapshot(hostname, life, step + 1)
        return
    queue = f"q{life % QUEUES}"
    yield events.TaskSent(hostname=f"gen{life % 500}@h", timestamp=stamp, uuid=uuid, name=name, queue=queue)
    if step % 3 == 0:
        return  # lost: nobody will ever start it
    yield events.TaskStarted(hostname=hostname, timestamp=stamp, uuid=uuid)
    if step % 5:
        yield events.TaskSucceeded(hostname=hostname, timestamp=stamp, uuid=uuid, runtime=0.1)
    else:
        text = f"Error{life % CLASSES}('Event loop is closed')"
        yield events.TaskFailed(hostname=hostname, timestamp=stamp, uuid=uuid, exception=text)


def _snapshot(hostname: str, life: int, seq: int) -> events.Snapshot:
    pool = (f"pool{life % 7}",)
    return events.Snapshot(
        hostname=hostname,
        timestamp=0.0,
        version=1,
        boot=f"boot-{life}",
        seq=seq,
        interval=5.0,
        info=events.SnapshotInfo(queues=[f"q{life % QUEUES}"], slots=8),
        counters=encode_table({catalogue.ENGINES_CREATED.wire_name: {pool: seq}}),
        gauges={
            str(slot): encode_table({catalogue.POOL_CONNECTIONS_MAX.wire_name: {pool: 15}})
            for slot in (life % 8, life % 5)
        },
    )


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def main() -> int:
    """Prints what it came to; told the arguments of `churn` as JSON, as JSON."""
    if sys.argv[1:]:
        print(json.dumps(asdict(churn(**json.loads(sys.argv[1])))))
        return 0
    found = churn()
    print(f"RSS before: {found.before / 1e6:.0f} MB; after each tenth: ", end="")
    print(", ".join(f"{rss / 1e6:.0f}" for rss in found.tenths), f"MB; growth {found.growth:.2f}x")
    for table, (entries, limit) in found.tables.items():
        print(f"  {table:20} {entries:>9} of {limit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
