"""From child to parent: folding, dropping, and real children that die."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.channel import Channel, Writer
from loopwatch.telemetry.children import Children, forget_unused_pools, gather_gauges, merge_gauges
from loopwatch.telemetry.stats import STATS
from loopwatch.telemetry.wire import ChildSnapshot

# Python 3.12 warns of what is tested here.
forks_with_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
COUNTER = catalogue.NOTIFICATIONS
LABELS = ("q", "notify")


def _datagram(pid: int, nonce: str, seq: int, count: int, slot: int = 0) -> bytes:
    counters: wire.Table = {COUNTER.wire_name: {LABELS: count}}
    (datagram,) = wire.encode_child(ChildSnapshot(pid, nonce, slot, seq, counters, {"g": {(): float(count)}}))
    return datagram


def _sum(children: Children) -> wire.Value:
    return children.counters().get(COUNTER.wire_name, {}).get(LABELS, 0)


def test_the_newest_snapshot_of_each_child_counts() -> None:
    children = Children()
    for datagram in (_datagram(1, "a", 2, 5), _datagram(2, "b", 1, 10, slot=1), _datagram(1, "a", 1, 3)):
        children.add(datagram)
    assert _sum(children) == 15
    assert children.gauges() == {0: {"g": {(): 5.0}}, 1: {"g": {(): 10.0}}}


def test_the_sums_of_the_dead_stay_and_their_gauges_go() -> None:
    children = Children()
    children.add(_datagram(1, "a", 1, 5))
    children.bury({1})
    assert _sum(children) == 5
    assert children.gauges() == {}
    assert children.pids() == set()


@pytest.mark.parametrize("buried", [True, False], ids=["known to be dead", "not yet known to be"])
def test_a_pid_that_is_used_again_is_another_child(*, buried: bool) -> None:
    children = Children()
    children.add(_datagram(1, "a", 9, 5))
    if buried:
        children.bury({1})
    children.add(_datagram(1, "b", 1, 2))
    assert _sum(children) == 7


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.integers(0, 5)), max_size=40))
def test_sums_never_fall_and_lose_nothing(steps: list[tuple[int, bool, int]]) -> None:
    """Children count and die in any order; each one's snapshots are cumulative."""
    children = Children()
    lives = dict.fromkeys((1, 2, 3), 0)
    counts: dict[int, int] = {}
    total = 0
    before = 0.0
    for pid, dies, amount in steps:
        counts[pid] = counts.get(pid, 0) + amount
        total += amount
        children.add(_datagram(pid, str(lives[pid]), counts[pid] + 1, counts[pid]))
        if dies:
            children.bury({pid})
            lives[pid] += 1
            del counts[pid]
        now = _sum(children)
        assert isinstance(now, (int, float))
        assert now >= before
        before = now
    assert before == total


class _Life:
    """A child as the parent may see it: what it counts, what of that it tells, and how."""

    def __init__(self, pid: int, nonce: str, slot: int) -> None:
        self.pid, self.nonce, self.slot = pid, nonce, slot
        self.seq = self.count = self.told = 0
        self.past: list[list[bytes]] = []

    def speak(self, amount: int) -> list[bytes]:
        """A new snapshot, in parts."""
        self.seq += 1
        self.count += amount
        rows: dict[wire.Labels, wire.Value] = {("q", f"{part}"): self.count for part in range(20)}
        gauges: wire.Table = {"g": {(self.nonce,): 1.0}}
        datagrams = wire.encode_child(
            ChildSnapshot(self.pid, self.nonce, self.slot, self.seq, {COUNTER.wire_name: rows}, gauges), limit=300
        )
        assert len(datagrams) > 1
        self.past.append(datagrams)
        return datagrams


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_whatever_arrives_in_whatever_order_sums_only_grow(data: st.DataObject) -> None:
    """Snapshots in parts, lost parts, repeated and outdated ones, deaths, reused pids, slots that two share."""
    children = Children()
    lives: dict[int, _Life] = {}
    buried: list[_Life] = []
    before: dict[wire.Labels, float] = {}
    for number in range(data.draw(st.integers(1, 25))):
        pid = data.draw(st.integers(1, 3))
        life = lives.get(pid)
        if life is None:
            life = lives[pid] = _Life(pid, f"life-{number}", slot=data.draw(st.integers(0, 1)))
        match data.draw(st.sampled_from(["speaks", "loses a part", "repeats itself", "is interrupted", "dies"])):
            case "speaks":
                for datagram in life.speak(data.draw(st.integers(0, 5))):
                    children.add(datagram)
                life.told = life.count
            case "loses a part":
                parts = life.speak(1)
                del parts[data.draw(st.integers(0, len(parts) - 1))]
                for datagram in parts:
                    children.add(datagram)
            case "repeats itself" if life.past:
                for datagram in data.draw(st.sampled_from(life.past)):
                    children.add(datagram)
            case "is interrupted":
                children.add(life.speak(1)[0])
            case "dies":
                children.bury({pid})
                buried.append(lives.pop(pid))
        rows = children.counters().get(COUNTER.wire_name, {})
        now = {labels: value for labels, value in rows.items() if isinstance(value, (int, float))}
        assert all(now.get(labels, 0) >= value for labels, value in before.items())
        assert now.get(("q", "0"), 0) >= sum(known.told for known in (*lives.values(), *buried))
        # All rows of a snapshot are of one moment, whatever became of its parts.
        assert len(set(now.values())) <= 1
        before = now
        shown = {labels[0] for table in children.gauges().values() for labels in table["g"]}
        assert shown <= {known.nonce for known in lives.values()}


def test_children_that_share_a_slot_are_both_shown() -> None:
    """For a moment there are two: the one that exits, and the one that takes its place."""
    children = Children()
    children.add(_datagram(1, "a", 1, 5))
    children.add(_datagram(2, "b", 1, 7))
    assert children.gauges() == {0: {"g": {(): 12.0}}}


def test_label_sets_of_the_dead_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwatch.telemetry.children.MAX_DEAD_SERIES", 3)
    children = Children()
    lost = 0
    for pid in range(1, 6):
        rows: dict[wire.Labels, wire.Value] = {LABELS: 1, ("q", f"operation-{pid}"): 1}
        (datagram,) = wire.encode_child(ChildSnapshot(pid, "a", 0, 1, {COUNTER.wire_name: rows}))
        children.add(datagram)
        lost += children.bury({pid})
    assert lost == 3
    assert len(children.counters()[COUNTER.wire_name]) == 3
    assert _sum(children) == 5


def test_what_has_no_slot_is_told_once_and_reads_the_same() -> None:
    running, info = catalogue.TASK_OLDEST_RUNNING.wire_name, catalogue.POOL_INFO.wire_name
    checked, loops = catalogue.POOL_CHECKED_OUT.wire_name, catalogue.LOOPS.wire_name
    gauges: dict[int, wire.Table] = {
        slot: {
            running: {("q",): float(slot)},
            info: {("main", "sqlalchemy", "db"): 1},
            checked: {("q", "main"): 2},
            loops: {(): 1},
        }
        for slot in (1, 2)
    }
    gather_gauges(gauges, 0)
    assert gauges == {
        0: {running: {("q",): 2.0}, info: {("main", "sqlalchemy", "db"): 1}, checked: {("q", "main"): 4}},
        1: {loops: {(): 1}},
        2: {loops: {(): 1}},
    }


def test_gauges_of_two_processes_in_one_slot_are_merged_as_the_family_says() -> None:
    summed, highest = catalogue.POOL_CONNECTIONS.wire_name, catalogue.POOL_OLDEST_CHECKOUT.wire_name
    into: wire.Table = {summed: {("p", "idle"): 2}, highest: {("p",): 3.0}}
    merge_gauges(into, {summed: {("p", "idle"): 1, ("p", "used"): 1}, highest: {("p",): 1.0}, "new": {(): 1}})
    assert into == {summed: {("p", "idle"): 3, ("p", "used"): 1}, highest: {("p",): 3.0}, "new": {(): 1}}


def test_a_parents_unused_pool_does_not_count_as_room_for_connections() -> None:
    def gauges(idle: int) -> wire.Table:
        return {
            catalogue.POOL_CONNECTIONS.wire_name: {("main", "idle"): idle, ("main", "used"): 0},
            catalogue.POOL_CONNECTIONS_MAX.wire_name: {("main",): 10},
        }

    unused, used = gauges(0), gauges(1)
    for table in (unused, used):
        forget_unused_pools(table)
    assert unused[catalogue.POOL_CONNECTIONS_MAX.wire_name] == {}
    assert used == gauges(1)


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.close()


def _fork(channel: Channel, body: str) -> int:
    """A pool child: counts 3 and does what ``body`` says."""
    pid = os.fork()
    if pid:
        return pid
    try:
        writer = channel.writer(slot=2)
        writer.start()
        STATS.count(COUNTER, LABELS, 3)
        if body == "exits":
            writer.finish()
        elif body == "is killed":
            writer.task_ended()
            os.kill(os.getpid(), signal.SIGKILL)
        elif body == "waits":
            time.sleep(600)
    finally:
        os._exit(0)


@forks_with_threads
@pytest.mark.parametrize("body", ["exits", "is killed"])
@pytest.mark.parametrize("reading", [True, False])
def test_a_real_childs_count_survives_it(
    channel: Channel, body: str, reading: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the clock it tells nothing: a snapshot just before its task's end would put off the one that is looked for.
    monkeypatch.setattr("loopwatch.telemetry.channel.INTERVAL", 600.0)
    if reading:
        channel.start()
    for _ in range(5):
        os.waitpid(_fork(channel, body), 0)
    counters, gauges = channel.tables()
    assert counters[COUNTER.wire_name][LABELS] == 15
    assert gauges == {}


@forks_with_threads
def test_a_live_child_speaks_each_second(channel: Channel) -> None:
    channel.start()
    pid = _fork(channel, "waits")
    try:
        deadline = time.monotonic() + 60
        while channel.tables()[0].get(COUNTER.wire_name) != {LABELS: 3}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert set(channel.tables()[1]) == {2}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert channel.tables() == ({**channel.tables()[0], COUNTER.wire_name: {LABELS: 3}}, {})


def test_a_full_channel_never_blocks_and_the_drop_is_counted() -> None:
    silent, sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    writer = Writer(sock, slot=0)
    before = STATS.value(catalogue.TELEMETRY_DROPPED, ("channel_full",))
    with silent, sock:
        sent = 0
        while writer.send():
            sent += 1
            assert sent < 100_000
        assert STATS.value(catalogue.TELEMETRY_DROPPED, ("channel_full",)) == before + 1
        # Room is made while the last snapshot waits for it: it has as many parts as other tests have left series.
        told = threading.Event()
        reader = threading.Thread(target=_read_until, args=(told, silent))
        reader.start()
        try:
            assert writer.send(deadline=time.monotonic() + 100)
        finally:
            told.set()
            reader.join()


def _read_until(told: threading.Event, silent: socket.socket) -> None:
    while not told.wait(0.01):
        with suppress(BlockingIOError):
            while True:
                silent.recv(65536, socket.MSG_DONTWAIT)


def test_what_is_no_snapshot_is_counted(channel: Channel) -> None:
    before = STATS.value(catalogue.TELEMETRY_DROPPED, ("malformed",))
    channel._writer.send(b"nonsense")
    assert channel.tables() == ({}, {})
    assert STATS.value(catalogue.TELEMETRY_DROPPED, ("malformed",)) == before + 1
