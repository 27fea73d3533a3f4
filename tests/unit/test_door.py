"""Children that come by a name: who is let in, and what a spawned child is told."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.solo import TaskPool as SoloPool

from loopwatch.celery import spawned
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.channel import Channel, Writer
from loopwatch.telemetry.door import Door, connect
from loopwatch.telemetry.stats import STATS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.close()


def test_a_child_that_comes_by_name_is_heard(channel: Channel) -> None:
    with connect(channel.open_door()) as sock:
        assert Writer(sock, slot=3).send()
        assert set(channel.tables()[1]) == {3}
    assert channel.open_door() == channel.open_door()


def test_the_reading_thread_hears_it_too(channel: Channel) -> None:
    address = channel.open_door()
    channel.start()
    with connect(address) as sock:
        writer = Writer(sock, slot=0)
        # A queue of ten: were nobody reading, there would be no room before the deadline.
        assert all(writer.send(deadline=float("inf")) for _ in range(50))


def _send_as_nobody(address: str) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(65534)
            connect(address).send(b"x")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_users_datagrams_are_not_believed(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    address = channel.open_door()
    before = STATS.value(catalogue.TELEMETRY_DROPPED, ("foreign",))
    if os.getuid() == 0:
        _send_as_nobody(address)
    else:
        with connect(address) as sock:
            sock.send(b"x")
        monkeypatch.setattr(os, "getuid", lambda: -1)
    assert channel.tables() == ({}, {})
    assert STATS.value(catalogue.TELEMETRY_DROPPED, ("foreign",)) == before + 1


def test_names_are_not_used_twice_and_end_with_their_door() -> None:
    one, other = Door(), Door()
    assert one.address != other.address
    one.close()
    other.close()
    with pytest.raises(ConnectionRefusedError):
        connect(one.address)


def _worker(pool: object, method: str = "spawn") -> Any:
    return SimpleNamespace(pool_cls=pool, pool_start_method=method)


def test_only_pools_with_fresh_children_are_invited() -> None:
    assert spawned.is_spawning(_worker("prefork"))
    assert not spawned.is_spawning(_worker("prefork", "fork"))
    assert not spawned.is_spawning(_worker("threads"))
    assert not spawned.is_spawning(_worker(SoloPool))


def test_an_invitation_is_handed_down_and_withdrawn(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOPWATCH_POOL", raising=False)
    assert spawned.invitation() is None
    spawned.invite(channel, ["a", "b"])
    invited = spawned.invitation()
    assert invited is not None
    assert invited.queues == ["a", "b"]
    sock = invited.connect()
    assert isinstance(sock, socket.socket)
    sock.close()
    spawned.withdraw()
    assert spawned.invitation() is None


def test_where_no_door_can_be_opened_it_says_so(
    channel: Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spawned, "can_open", lambda: False)
    with caplog.at_level(logging.WARNING, "loopwatch"):
        spawned.invite(channel, ["a"])
    assert "worker_pool_start_method" in caplog.text
    assert spawned.invitation() is None


def test_a_child_whose_parent_is_gone_works_on_and_says_so(
    channel: Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOOPWATCH_POOL", "")
    spawned.invite(channel, [])
    invited = spawned.invitation()
    assert invited is not None
    assert channel._door is not None
    channel._door.close()
    assert invited.connect() is None
    assert "does not listen" in caplog.text
