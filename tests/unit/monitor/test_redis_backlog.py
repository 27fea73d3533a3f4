"""Redis' bytes to events: in whatever pieces they come, at the cap, and over the end of a connection."""

from __future__ import annotations

import base64
import json
from collections import Counter

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwatch_monitor.intake.events import TaskReceived
from loopwatch_monitor.intake.redis_backlog import LITTLE_BYTES, Backlog

MEGABYTE = 1024 * 1024
LIMIT = 64 * MEGABYTE


def envelope(body: bytes) -> bytes:
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"hostname": "w@h"},
            "properties": {"body_encoding": "base64", "delivery_tag": "1"},
        }
    ).encode()


def event(uuid: str, **more: object) -> dict[str, object]:
    return {"type": "task-received", "hostname": "w@h", "timestamp": 1.0, "uuid": uuid, "name": "t"} | more


def published(*events: dict[str, object], multi: bool = False) -> bytes:
    """What Redis sends for the message of these events."""
    return message(json.dumps(list(events) if multi else events[0]).encode())


def message(body: bytes) -> bytes:
    """What Redis sends for the message of this body."""
    parts = [b"pmessage", b"/0.celeryev/*", b"/0.celeryev/task.multi", envelope(body)]
    return b"*4\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Read:
    """Everything that a backlog gives, added up."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.backlog = Backlog(limit)
        self.uuids: list[str] = []
        self.malformed: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def add(self, data: bytes) -> None:
        while data:
            room = self.backlog.room()
            size = min(len(room), len(data))
            room[:size] = data[:size]
            self.backlog.filled(size)
            data = data[size:]

    def drain(self) -> None:
        while self.backlog:
            batch = self.backlog.batch()
            self.uuids += [found.uuid for found in batch.events if isinstance(found, TaskReceived)]
            self.malformed += batch.malformed
            self.lost += batch.lost


@settings(deadline=None)
@given(st.lists(st.integers(1, 1500), max_size=30), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_it_does_not_matter_in_what_pieces_bytes_come(cuts: list[int], sizes: list[int]) -> None:
    numbers = iter(range(1_000))
    expected: list[str] = []
    stream = b""
    for size in sizes:
        uuids = [str(next(numbers)) for _ in range(max(size, 1))]
        expected += uuids
        stream += published(*map(event, uuids), multi=size > 0)
    read = Read()
    for cut in cuts:
        read.add(stream[:cut])
        stream = stream[cut:]
        read.drain()
    read.add(stream)
    read.drain()
    assert read.uuids == expected
    assert not read.malformed
    assert not +read.lost


def test_much_at_once_comes_out_in_small_batches_and_in_order() -> None:
    read = Read()
    uuids = [str(number) for number in range(10_000)]
    read.add(b"".join(published(event(uuid)) for uuid in uuids))
    assert read.backlog.size > LITTLE_BYTES
    assert 0 < len(read.backlog.batch().events) < 500
    read = Read()
    read.add(b"".join(published(event(uuid)) for uuid in uuids))
    read.drain()
    assert read.uuids == uuids
    assert read.backlog.size == 0


def test_answers_that_are_no_messages_are_skipped() -> None:
    read = Read()
    read.add(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n" + published(event("1")) + b"-ERR what\r\n" + published(event("2")))
    read.drain()
    assert read.uuids == ["1", "2"]


def test_a_message_of_5_megabytes() -> None:
    read = Read()
    read.add(published(event("1", args="x" * 5_000_000)) + published(event("2")))
    read.drain()
    assert read.uuids == ["1", "2"]


def test_at_the_cap_the_oldest_go_and_their_events_are_counted() -> None:
    read = Read(limit=MEGABYTE)
    messages = [published(event(f"{number}a"), event(f"{number}b"), multi=True) for number in range(4_000)]
    read.add(b"".join(messages))
    read.drain()
    assert 0 < len(read.uuids) < 8_000
    assert read.lost == {"buffer_full": 8_000 - len(read.uuids)}
    assert read.uuids[-1] == "3999b"


def test_what_cannot_be_read_counts_as_one_lost_event_at_the_cap() -> None:
    read = Read(limit=MEGABYTE)
    read.add(message(b"42") * 10_000)
    read.drain()
    assert read.lost["buffer_full"] > 0
    assert read.lost["buffer_full"] + read.malformed["shape"] == 10_000


def test_a_message_that_its_connection_cut_off_is_counted_and_harms_no_other() -> None:
    read = Read()
    read.add(published(event("1")) + published(event("2"))[:-20])
    first_bytes = hiredis.Reader()
    first_bytes.feed(published(event("3")))
    read.backlog.begin(first_bytes)
    read.add(published(event("4")))
    read.drain()
    assert read.uuids == ["1", "3", "4"]
    assert read.lost == {"disconnected": 1}


def test_a_connection_that_ends_between_messages_lost_nothing() -> None:
    read = Read()
    read.add(published(event("1")))
    read.backlog.begin(hiredis.Reader())
    read.add(published(event("2")))
    read.drain()
    assert read.uuids == ["1", "2"]
    assert not +read.lost


@pytest.mark.parametrize("cut", [0, 20], ids=["between two messages", "within one"])
def test_a_connection_that_ended_too_early_lost_something(cut: int) -> None:
    read = Read()
    data = published(event("1")) + published(event("2"))
    read.add(data[: len(data) - cut])
    read.backlog.begin(hiredis.Reader(), cut_off=True)
    read.add(published(event("3")))
    read.backlog.begin(hiredis.Reader())
    read.drain()
    assert read.lost == {"disconnected": 1}


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n", b"*4\r\n$99999999999999999999\r\n"])
def test_what_is_no_redis_ends_its_connection_only(garbage: bytes) -> None:
    read = Read()
    read.add(published(event("1")) + garbage + published(event("lost")))
    read.backlog.begin(hiredis.Reader())
    read.add(published(event("2")))
    read.drain()
    assert read.uuids == ["1", "2"]
    assert isinstance(read.backlog.error, hiredis.ProtocolError)


def test_a_message_larger_than_the_cap_ends_its_connection() -> None:
    read = Read(limit=MEGABYTE)
    data = published(event("1", args="x" * 4 * MEGABYTE))
    while read.backlog.error is None:
        read.add(data[: MEGABYTE // 2])
        data = data[MEGABYTE // 2 :]
        read.drain()
    assert data
    assert read.uuids == []
    assert "a message of more than" in str(read.backlog.error)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=10))
def test_no_bytes_make_it_raise(pieces: list[bytes]) -> None:
    read = Read()
    for piece in pieces:
        read.add(piece)
        read.drain()
    read.backlog.begin(hiredis.Reader())
    read.add(published(event("1")))
    read.drain()
    assert read.uuids[-1] == "1"
