"""Node snapshots: exposed counters never fall, gauges live as long as their node speaks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.wire import Table
from loopwatch_monitor.state import processes
from loopwatch_monitor.state.labels import MAX_LENGTH
from loopwatch_monitor.state.processes import BOOT_SECONDS, MAX_BOOTS
from tests.unit.monitor.monitored import WALL, Monitored


def created(number: float) -> Table:
    return {catalogue.ENGINES_CREATED.wire_name: {("main",): number}}


def conflicts(number: float) -> Table:
    return {catalogue.LOOP_CONFLICTS.wire_name: {("logs", "t", "redis", "cross_loop", "guard"): number}}


def pool(*, limit: float = 10, used: float = 1, idle: float = 2, name: str = "main") -> Table:
    return {
        catalogue.POOL_CONNECTIONS_MAX.wire_name: {(name,): limit},
        catalogue.POOL_CONNECTIONS.wire_name: {(name, "used"): used, (name, "idle"): idle},
        catalogue.POOL_INFO.wire_name: {(name, "sqlalchemy", "roadmaps"): 1},
        catalogue.POOL_CHECKED_OUT.wire_name: {("logs", name): used},
        catalogue.TASK_OLDEST_RUNNING.wire_name: {("logs",): used},
    }


# ------------------------------------------------------------------------------------------------ counters
def test_counters_are_exposed_with_their_node_and_born_at_0() -> None:
    monitored = Monitored()
    monitored.snapshot(counters=created(0))
    assert monitored.series(catalogue.ENGINES_CREATED) == {'hostname="w@h",pool="main"': 0}
    monitored.snapshot(2, counters=created(5))
    assert monitored.series(catalogue.ENGINES_CREATED) == {'hostname="w@h",pool="main"': 5}


def test_what_was_dropped_is_told_at_0_from_the_first_snapshot_on() -> None:
    monitored = Monitored()
    monitored.snapshot(1)
    assert set(monitored.series(catalogue.TELEMETRY_DROPPED).values()) == {0}
    monitored.snapshot(2, counters={"telemetry_dropped_total": {("broker",): 1}})
    told = monitored.series(catalogue.TELEMETRY_DROPPED)
    assert told.pop('hostname="w@h",reason="broker"') == 1
    assert [*told.values()] == [0] * (len(catalogue.TELEMETRY_DROP_REASONS) - 1)


def test_all_reasons_for_which_the_library_drops_are_known() -> None:
    """Also those of a gauge's source, and of a datagram, that no test has."""
    source = "".join(path.read_text() for path in Path(loopwatch.__file__).parent.rglob("*.py"))
    assert {*re.findall(r'TELEMETRY_DROPPED, \("(\w+)",\)', source)} == {*catalogue.TELEMETRY_DROP_REASONS}
    for reason in catalogue.TELEMETRY_DROP_REASONS:
        assert reason in catalogue.TELEMETRY_DROPPED.help


def test_a_restarted_node_goes_on_where_it_was() -> None:
    monitored = Monitored()
    monitored.snapshot(1, boot="a", counters=created(100_000))
    monitored.snapshot(1, boot="b", counters=created(3))
    assert monitored.only(catalogue.ENGINES_CREATED) == 100_003


def test_a_value_that_falls_within_a_boot_is_clamped() -> None:
    monitored = Monitored()
    monitored.snapshot(1, counters=created(100_000))
    monitored.snapshot(2, counters=created(99_995))
    assert monitored.only(catalogue.ENGINES_CREATED) == 100_000
    monitored.snapshot(3, counters=created(100_001))
    assert monitored.only(catalogue.ENGINES_CREATED) == 100_001


def test_an_old_snapshot_is_dropped_and_a_lost_one_is_counted() -> None:
    monitored = Monitored()
    monitored.snapshot(7, counters=created(7))
    monitored.snapshot(6, counters=created(60))
    assert monitored.only(catalogue.ENGINES_CREATED) == 7
    monitored.snapshot(10, counters=created(10))
    assert monitored.only(catalogue.ENGINES_CREATED) == 10
    assert monitored.only(catalogue.MONITOR_SNAPSHOTS) == 2
    assert monitored.only(catalogue.MONITOR_SNAPSHOT_GAPS) == 2


def test_histograms_grow_bucket_by_bucket() -> None:
    monitored = Monitored()
    width = len(catalogue.POOL_CREATE.buckets) + 1

    def histogram(first: float, total: float) -> Table:
        return {catalogue.POOL_CREATE.wire_name: {("main",): [first] + [0] * (width - 1) + [total]}}

    monitored.snapshot(1, boot="a", counters=histogram(2, 0.2))
    monitored.snapshot(1, boot="b", counters=histogram(1, 0.1))
    monitored.snapshot(2, boot="b", counters=histogram(4, 0.4))
    assert monitored.only(catalogue.POOL_CREATE) == [6] + [0] * (width - 1) + [pytest.approx(0.6)]


def test_families_without_a_hostname_are_sums_that_outlive_their_nodes() -> None:
    monitored = Monitored(purge=600)
    uses: Table = {catalogue.TASK_POOL_USES.wire_name: {("logs", "t", "main"): 2}}
    monitored.snapshot(1, hostname="a@h", counters=uses)
    monitored.snapshot(1, hostname="b@h", counters=uses)
    assert monitored.series(catalogue.TASK_POOL_USES) == {'queue_name="logs",name="t",pool="main"': 4}
    monitored.after(601)
    assert monitored.only(catalogue.TASK_POOL_USES) == 4
    # A node that comes back after its purge is not counted again.
    monitored.snapshot(2, hostname="a@h", counters={catalogue.TASK_POOL_USES.wire_name: {("logs", "t", "main"): 3}})
    assert monitored.only(catalogue.TASK_POOL_USES) == 4
    monitored.snapshot(3, hostname="a@h", counters={catalogue.TASK_POOL_USES.wire_name: {("logs", "t", "main"): 5}})
    assert monitored.only(catalogue.TASK_POOL_USES) == 6


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.integers(1, 20),
            st.integers(0, 1000),
            st.sampled_from([0.0, 5.0, 20.0]),
        ),
        max_size=40,
    )
)
def test_an_exposed_counter_never_falls(snapshots: list[tuple[str, int, int, float]]) -> None:
    monitored = Monitored(purge=0)
    before = 0.0
    for boot, seq, value, pause in snapshots:
        monitored.after(pause)
        monitored.snapshot(seq, boot=boot, counters=created(value))
        now = monitored.only(catalogue.ENGINES_CREATED)
        assert isinstance(now, (int, float))
        assert now >= before
        before = now


def test_more_boots_than_are_remembered_count_nothing_twice() -> None:
    monitored = Monitored(purge=0)
    for number in range(MAX_BOOTS + 1):
        monitored.snapshot(1, boot=f"boot-{number}", counters=created(10))
    everything = 10 * (MAX_BOOTS + 1)
    assert monitored.only(catalogue.ENGINES_CREATED) == everything
    monitored.snapshot(2, boot="boot-0", counters=created(12))
    assert monitored.only(catalogue.ENGINES_CREATED) == everything
    monitored.snapshot(3, boot="boot-0", counters=created(13))
    assert monitored.only(catalogue.ENGINES_CREATED) == everything + 1


def test_a_life_that_is_over_takes_no_room_and_counts_nothing_twice() -> None:
    """Restarts of a worker whose name stays, over weeks."""
    monitored = Monitored(purge=0)
    processes = monitored.fleet.processes
    for number in range(5):
        monitored.snapshot(1, boot=f"boot-{number}", counters=created(10))
        assert processes.rows == 1 + (number > 0)
        monitored.after(BOOT_SECONDS)
        assert processes.rows == 1
    assert monitored.only(catalogue.ENGINES_CREATED) == 50
    monitored.snapshot(2, boot="boot-0", counters=created(12))  # it only stood still
    assert monitored.only(catalogue.ENGINES_CREATED) == 50
    monitored.snapshot(3, boot="boot-0", counters=created(13))
    assert monitored.only(catalogue.ENGINES_CREATED) == 51


def test_counters_of_all_lives_are_bounded() -> None:
    monitored = Monitored(purge=60)
    processes = monitored.fleet.processes
    processes.rows_limit = 3
    for number in range(10):
        monitored.snapshot(1, hostname=f"w{number % 5}@h", boot=f"boot-{number}", counters=created(10))
        assert processes.rows <= 3
    assert monitored.dropped == {"loopwatch_engines_created_total": 7}
    monitored.after(60)
    assert processes.rows == 0
    monitored.snapshot(1, hostname="new@h", boot="new", counters=created(10))
    assert monitored.only(catalogue.ENGINES_CREATED) == 10


@pytest.mark.parametrize(
    "table",
    [
        {catalogue.ENGINES_CREATED.wire_name: {("main", "extra"): 1}},
        {catalogue.ENGINES_CREATED.wire_name: {("main",): -1}},
        {catalogue.ENGINES_CREATED.wire_name: {("main",): [1, 2]}},
        {catalogue.POOL_CREATE.wire_name: {("main",): 1}},
        {catalogue.POOL_CREATE.wire_name: {("main",): [1, 2]}},
        {catalogue.LOOPS.wire_name: {(): 1}},
    ],
)
def test_a_row_that_is_not_what_its_family_says_is_counted_and_costs_no_other(table: Table) -> None:
    monitored = Monitored()
    monitored.snapshot(counters=table | {catalogue.POOL_INVALIDATED.wire_name: {("main",): 4}, "from_the_future": {}})
    assert monitored.only(catalogue.POOL_INVALIDATED) == 4
    assert monitored.series(catalogue.MONITOR_EVENTS_MALFORMED)['reason="snapshot"'] == 1


def test_series_of_one_family_are_bounded() -> None:
    monitored = Monitored()
    monitored.fleet.totals.limit = 20
    table: Table = {catalogue.ENGINES_CREATED.wire_name: {(f"p{number}",): 1 for number in range(23)}}
    monitored.snapshot(counters=table)
    assert len(monitored.series(catalogue.ENGINES_CREATED)) == 20
    assert monitored.dropped == {"loopwatch_engines_created_total": 3}


def test_nodes_are_bounded() -> None:
    monitored = Monitored()
    monitored.fleet.processes.limit = 2
    for number in range(5):
        monitored.snapshot(hostname=f"w{number}@h")
    assert len(monitored.series(catalogue.WORKER_SNAPSHOT_AGE)) == 2
    assert monitored.dropped == {"loopwatch_worker_info": 3}


# -------------------------------------------------------------------------------------------------- gauges
def test_databases_are_bounded_as_the_pools_are_that_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_GAUGES", 3)
    monitored = Monitored()
    for number in range(5):
        info: Table = {catalogue.POOL_INFO.wire_name: {("main", "sqlalchemy", f"db{number}"): 1}}
        monitored.snapshot(hostname=f"w{number}@h", gauges={0: info})
    assert [*monitored.series(catalogue.DATABASE_CONNECTIONS_USED)] == [f'database="db{number}"' for number in range(3)]
    assert monitored.dropped == {"loopwatch_pool_info": 2}


def test_gauges_are_by_slot_or_merged_over_slots() -> None:
    monitored = Monitored()
    monitored.snapshot(gauges={0: pool(used=1), 1: pool(used=4)})
    assert monitored.series(catalogue.POOL_CONNECTIONS_MAX) == {
        'hostname="w@h",slot="0",pool="main"': 10,
        'hostname="w@h",slot="1",pool="main"': 10,
    }
    assert monitored.series(catalogue.POOL_CHECKED_OUT) == {'hostname="w@h",queue_name="logs",pool="main"': 5}
    assert monitored.series(catalogue.TASK_OLDEST_RUNNING) == {'hostname="w@h",queue_name="logs"': 4}
    assert monitored.only(catalogue.POOL_INFO) == 1


def test_the_fleet_against_its_database() -> None:
    monitored = Monitored()
    monitored.snapshot(hostname="a@h", gauges={0: pool(), 1: pool()})
    monitored.snapshot(hostname="b@h", gauges={0: pool(limit=5, name="other")})
    assert monitored.series(catalogue.DATABASE_CONNECTIONS_POTENTIAL) == {'database="roadmaps"': 25}
    assert monitored.series(catalogue.DATABASE_CONNECTIONS_USED) == {'database="roadmaps"': 9}


def test_the_limit_of_a_database_is_one_series_and_the_highest_that_a_node_knows() -> None:
    monitored = Monitored()
    wire_name = catalogue.DATABASE_CONNECTIONS_LIMIT.wire_name
    for hostname, limit in (("a@h", 200), ("b@h", 100)):
        tables: dict[int, Table] = {slot: {wire_name: {("roadmaps",): limit}} for slot in (0, 1)}
        monitored.snapshot(hostname=hostname, gauges=tables)
    assert monitored.series(catalogue.DATABASE_CONNECTIONS_LIMIT) == {'database="roadmaps"': 200}


def test_gauges_go_after_three_silent_intervals_and_counters_stay_until_the_purge() -> None:
    monitored = Monitored(purge=600)
    monitored.snapshot(counters=created(3), gauges={0: pool()}, interval=5.0)
    monitored.after(14.9)
    assert monitored.series(catalogue.POOL_CONNECTIONS)
    monitored.after(0.1)
    assert monitored.series(catalogue.POOL_CONNECTIONS) == {}
    assert monitored.series(catalogue.DATABASE_CONNECTIONS_USED) == {}
    assert monitored.only(catalogue.ENGINES_CREATED) == 3
    assert monitored.only(catalogue.WORKER_SNAPSHOT_AGE) == 15.0
    monitored.after(585)
    assert monitored.series(catalogue.ENGINES_CREATED) == {}
    assert monitored.series(catalogue.WORKER_SNAPSHOT_AGE) == {}


def test_a_goodbye_ends_the_gauges_at_once_and_is_no_silence() -> None:
    monitored = Monitored()
    monitored.snapshot(1, counters=created(3), gauges={0: pool()})
    monitored.snapshot(2, counters=created(4), gauges={0: pool()}, stopping=True)
    assert monitored.series(catalogue.POOL_CONNECTIONS) == {}
    assert monitored.series(catalogue.WORKER_SNAPSHOT_AGE) == {}
    assert monitored.only(catalogue.ENGINES_CREATED) == 4


def test_gauges_of_all_lives_are_bounded() -> None:
    monitored = Monitored()
    processes = monitored.fleet.processes
    processes.rows_limit = 3
    for number in range(10):
        loops: Table = {catalogue.LOOPS.wire_name: {(): 1}}
        monitored.snapshot(1, hostname=f"w{number}@h", kind="process", gauges={0: loops, 1: loops})
        assert processes.gauges <= 3
    assert len(monitored.series(catalogue.LOOPS)) == 3
    assert monitored.dropped == {"loopwatch_loops": 17}
    monitored.after(15)
    assert processes.gauges == 0


def test_what_a_node_says_of_itself_takes_no_more_room_than_is_shown() -> None:
    monitored = Monitored()
    long = "x" * 5_000_000
    monitored.snapshot(queues=[long], pool_type=long, celery_version=long, loopwatch_version=long, release=long)
    info = monitored.fleet.processes.nodes["w@h"].info
    texts = [*info.queues, info.pool_type, info.celery_version, info.loopwatch_version, info.release]
    assert {len(text) for text in texts} == {MAX_LENGTH}


def test_what_a_worker_is() -> None:
    monitored = Monitored()
    monitored.snapshot(
        queues=["logs", "content"], pool_type="prefork", slots=4, start_time=7.0, celery_version="5.7", release="r1"
    )
    assert list(monitored.series(catalogue.WORKER_INFO)) == [
        'hostname="w@h",queue_name="content,logs",pool_type="prefork",celery_version="5.7",loopwatch_version="",release="r1"'
    ]
    assert set(monitored.series(catalogue.WORKER_QUEUE)) == {
        'hostname="w@h",queue_name="content"',
        'hostname="w@h",queue_name="logs"',
    }
    assert monitored.only(catalogue.WORKER_SLOTS) == 4
    assert monitored.only(catalogue.WORKER_START_TIME) == 7.0


# ------------------------------------------------------------------------------- two lives under one name
def test_two_live_nodes_under_one_name_add_up_and_are_counted_and_named_once() -> None:
    monitored = Monitored()
    for seq in range(1, 5):
        monitored.snapshot(seq, boot="a", counters=created(seq), gauges={0: pool(used=1)})
        monitored.snapshot(seq, boot="b", counters=created(10 * seq), gauges={0: pool(used=2)})
    assert monitored.only(catalogue.ENGINES_CREATED) == 44
    assert monitored.only(catalogue.MONITOR_DUPLICATE_NODENAMES) == 1
    assert monitored.duplicates == ["w@h"]
    assert monitored.series(catalogue.POOL_CHECKED_OUT) == {'hostname="w@h",queue_name="logs",pool="main"': 2}


def test_a_restart_is_no_duplicate() -> None:
    monitored = Monitored()
    monitored.snapshot(1, boot="a")
    monitored.snapshot(1, boot="b")
    monitored.snapshot(2, boot="a", stopping=True)
    monitored.snapshot(2, boot="b")
    assert monitored.only(catalogue.MONITOR_DUPLICATE_NODENAMES) == 0


def test_the_older_of_two_is_shown_again_when_the_newer_leaves() -> None:
    monitored = Monitored()
    monitored.snapshot(1, boot="a", gauges={0: pool(used=1)})
    monitored.snapshot(1, boot="b", gauges={0: pool(used=2)})
    monitored.snapshot(2, boot="b", stopping=True)
    monitored.snapshot(2, boot="a", gauges={0: pool(used=1)})
    assert monitored.only(catalogue.POOL_CHECKED_OUT) == 1


def test_the_processes_of_an_api_share_a_name_and_are_all_shown() -> None:
    monitored = Monitored()
    for seq in range(1, 4):
        for slot, boot in enumerate("abc"):
            monitored.snapshot(seq, boot=boot, counters=created(seq), gauges={slot: pool(used=1)}, kind="process")
    assert monitored.only(catalogue.ENGINES_CREATED) == 9
    assert monitored.only(catalogue.MONITOR_DUPLICATE_NODENAMES) == 0
    assert monitored.series(catalogue.POOL_CONNECTIONS_MAX) == {
        f'hostname="w@h",slot="{slot}",pool="main"': 10 for slot in range(3)
    }
    assert monitored.only(catalogue.POOL_CHECKED_OUT) == 3
    assert monitored.only(catalogue.DATABASE_CONNECTIONS_POTENTIAL) == 30

    monitored.snapshot(4, boot="c", stopping=True, kind="process")  # one says goodbye
    assert monitored.only(catalogue.POOL_CHECKED_OUT) == 2
    monitored.after(10)
    monitored.snapshot(4, boot="a", gauges={0: pool(used=1)}, kind="process")
    monitored.after(10)  # and one is silent
    assert monitored.series(catalogue.POOL_CONNECTIONS_MAX) == {'hostname="w@h",slot="0",pool="main"': 10}
    assert monitored.only(catalogue.DATABASE_CONNECTIONS_POTENTIAL) == 10
    assert monitored.only(catalogue.ENGINES_CREATED) == 9


# ------------------------------------------------------------------------------------ the last conflict
def last_conflict(monitored: Monitored) -> Any:
    return monitored.only(catalogue.LOOP_CONFLICT_LAST)


def test_the_last_conflict_is_told_by_our_clock_and_0_is_never() -> None:
    monitored = Monitored()
    monitored.snapshot(1, counters=conflicts(0))
    assert last_conflict(monitored) == 0
    monitored.after(100)
    monitored.snapshot(2, counters=conflicts(1))
    assert last_conflict(monitored) == WALL + 100
    monitored.after(5)
    monitored.snapshot(3, counters=conflicts(1))
    assert last_conflict(monitored) == WALL + 100


def test_conflicts_of_long_ago_are_not_dated_to_the_monitors_start() -> None:
    monitored = Monitored()
    monitored.snapshot(1_000, counters=conflicts(3))
    assert monitored.only(catalogue.LOOP_CONFLICTS) == 3
    assert last_conflict(monitored) == 0
    monitored.snapshot(1_001, counters=conflicts(4))
    assert last_conflict(monitored) == WALL


def test_a_young_nodes_first_conflicts_are_dated() -> None:
    monitored = Monitored()
    monitored.snapshot(2, counters=conflicts(1))
    assert last_conflict(monitored) == WALL
