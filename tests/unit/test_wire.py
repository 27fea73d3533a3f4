"""The snapshot as bytes: what goes in comes out, whole or in parts, and its bytes are pinned."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwatch.telemetry import wire
from loopwatch.telemetry.wire import Assembler, ChildSnapshot, NodeInfo, NodeSnapshot, Table

few = settings(max_examples=50)

numbers = st.integers(0, 2**53) | st.floats(0, 1e9, allow_nan=False).map(lambda seconds: round(seconds, 6))
# A histogram's buckets repeat a few numbers: to draw each one anew would take most of the time of these tests.
values = numbers | st.builds(
    lambda several, times: several * times, st.lists(numbers, min_size=2, max_size=3), st.integers(1, 5)
)
labels = st.lists(st.text(max_size=20), max_size=4).map(tuple)
tables = st.dictionaries(
    st.text(min_size=1, max_size=20), st.dictionaries(labels, values, min_size=1, max_size=3), max_size=4
)
snapshots = st.builds(
    ChildSnapshot,
    pid=st.integers(1, 2**22),
    nonce=st.text(max_size=8),
    slot=st.integers(0, 100),
    seq=st.integers(0, 2**31),
    counters=tables,
    gauges=tables,
)


@few
@given(tables)
def test_a_table_survives_json(table: Table) -> None:
    assert wire.decode_table(json.loads(json.dumps(wire.encode_table(table)))) == table


@few
@given(snapshots, st.integers(300, 2000))
def test_a_snapshot_survives_being_split(snapshot: ChildSnapshot, limit: int) -> None:
    assembler = Assembler()
    joined = [assembler.add(wire.decode_child(part)) for part in wire.encode_child(snapshot, limit)]
    assert joined == [None] * (len(joined) - 1) + [snapshot]


@few
@given(snapshots, snapshots, st.data())
def test_a_snapshot_that_lost_a_part_is_void_and_the_next_is_whole(
    first: ChildSnapshot, second: ChildSnapshot, data: st.DataObject
) -> None:
    second.seq = first.seq + 1
    parts = wire.encode_child(first, 300)
    del parts[data.draw(st.integers(0, len(parts) - 1))]
    assembler = Assembler()
    assert all(assembler.add(wire.decode_child(part)) is None for part in parts)
    assert [assembler.add(wire.decode_child(part)) for part in wire.encode_child(second, 300)][-1] == second


@few
@given(snapshots)
def test_no_datagram_is_longer_than_it_may_be(snapshot: ChildSnapshot) -> None:
    for datagram in wire.encode_child(snapshot, 1000):
        rows = json.loads(datagram)[7:]
        assert len(datagram) <= 1000 or sum(len(family) for table in rows for family in table.values()) == 1


def test_a_name_is_as_long_as_it_is_written() -> None:
    """Escaped, a character may take twelve bytes."""
    snapshot = ChildSnapshot(1, "n", 0, 1, {"\U00010000" * 15 + f"{number}": {(): number} for number in range(40)})
    assert all(len(datagram) <= 1000 for datagram in wire.encode_child(snapshot, 1000))


@few
@given(st.binary())
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # one of its kinds: bad JSON, bad UTF-8, a bad shape
        wire.decode_child(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'[2,1,"n",0,1,0,1,{},{}]',
        b'[1,"1","n",0,1,0,1,{},{}]',
        b'[1,1,"n",0,1,0,1,[],{}]',
        b'[1,1,"n",0,1,0,1,{"f":[[[1],1]]},{}]',
        b'[1,1,"n",0,1,0,1,{"f":[[[],true]]},{}]',
        b'[1,1,"n",0,1,0,1,{"f":[1]},{}]',
        b'[1,99999999999,"n",0,1,0,1,{},{}]',  # no pid of any system: asking for it would fail each time
        b"[" * 10_000,
    ],
)
def test_a_wrong_shape_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the docstring promises no more
        wire.decode_child(data)


@few
@given(st.lists(tables, max_size=4), st.randoms())
def test_the_order_of_adding_does_not_matter(several: list[Table], random: object) -> None:
    def total(order: list[Table]) -> Table:
        into: Table = {}
        for table in order:
            wire.add_tables(into, table)
        return into

    # Whole numbers of one shape a family, as every process of one version sends them.
    several = [{"f": {key: 1 for row in table.values() for key in row}} for table in several]
    shuffled = list(several)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert total(several) == total(shuffled)


def test_adding_leaves_what_was_added_alone() -> None:
    table: Table = {"f": {("a",): [1, 2.0]}}
    into: Table = {}
    wire.add_tables(into, table)
    wire.add_tables(into, table)
    assert into == {"f": {("a",): [2, 4.0]}}
    assert table == {"f": {("a",): [1, 2.0]}}


def test_the_bytes_are_pinned() -> None:
    snapshot = ChildSnapshot(7, "ab", 1, 3, {"c_total": {("q", "p"): 2}}, {"g": {(): 1.5}})
    assert wire.encode_child(snapshot) == [b'[1,7,"ab",1,3,0,1,{"c_total":[[["q","p"],2]]},{"g":[[[],1.5]]}]']


def test_the_fields_of_an_event_are_pinned() -> None:
    info = NodeInfo("celery", "prefork", ["a", "b"], 2, 10.0, "5.7.0", "0.1", "r1")
    snapshot = NodeSnapshot("b00t", 3, 5.0, info, {"c_total": {("q",): 2}}, {1: {"g": {(): 1.5}}}, stopping=True)
    assert json.loads(json.dumps(snapshot.to_fields())) == {
        "version": 1,
        "boot": "b00t",
        "seq": 3,
        "interval": 5.0,
        "stopping": True,
        "info": {
            "kind": "celery",
            "pool_type": "prefork",
            "queues": ["a", "b"],
            "slots": 2,
            "start_time": 10.0,
            "celery_version": "5.7.0",
            "loopwatch_version": "0.1",
            "release": "r1",
        },
        "counters": {"c_total": [[["q"], 2]]},
        "gauges": {"1": {"g": [[[], 1.5]]}},
    }
