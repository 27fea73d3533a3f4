"""A fleet whose workers, names and tasks never stay takes no more memory for it."""

from __future__ import annotations

import gc

from benchmarks.churn import fold_churn
from loopwatch_monitor.state.fleet import Fleet
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.samples import Samples

EVENTS, LIVES, HOSTS = 300_000, 6_000, 5_000
SECONDS = 12 * 3600.0


def test_tables_hold_their_bounds_and_memory_is_flat() -> None:
    # Small enough that what is lost for ever fills it soon.
    fleet = Fleet(labels=Labels(), max_tasks=5_000)
    samples = Samples(fleet, version="1")
    objects = []
    for number in fold_churn(fleet, EVENTS, LIVES, HOSTS, seconds=SECONDS):
        for table, (entries, limit) in samples.tables().items():
            # The table of early events sheds what is too much at the next event.
            assert entries <= limit + (table == "early_events"), table
        if number % 50_000 == 0:
            gc.collect()
            objects.append(len(gc.get_objects()))
    assert fleet.ledger.evictions["tasks"] > 0
    assert fleet.ledger.events.total() == EVENTS
    assert not fleet.ledger.malformed["error"]
    assert objects[-1] < 1.1 * objects[1], objects

    end = Now(SECONDS + 10_000.0, 0.0)
    fleet.tick(end)
    left = {table: entries for table, (entries, _) in samples.tables().items() if entries}
    # Of the dead nothing stays but what tells no worker apart, and tasks that may still be started.
    assert left.keys() <= {"tasks", "queues", "snapshot_series"}, left
    assert left.get("snapshot_series", 0) < 1_000
    assert not fleet._only_queues
