"""From a pool child to its parent: snapshots over a socket pair that is made before the pool forks (a child that was
spawned, not forked, comes by the parent's `Door`).

The child (`Writer`) never waits: a datagram for which there is no room is dropped and counted, and as every snapshot
is cumulative, the next one makes up for it. Only the last one, at the child's exit, waits a little for room.

The parent (`Channel`) keeps each child's newest snapshot (`Children`) by pid and nonce. When a pid is gone, what is
still in the socket is read first, then the child's sums are added to those of the dead and its gauges dropped: so a
node's counters only grow, however its children come and go.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.children import Children
from loopwatch.telemetry.conflict_reports import REPORTS, decode_report
from loopwatch.telemetry.door import Door
from loopwatch.telemetry.stats import STATS
from loopwatch.telemetry.wire import ChildSnapshot, Table

__all__ = ["Channel", "Writer", "own_snapshot"]

INTERVAL = 1.0
"""Seconds between two snapshots of a child: what it counted since is lost when it is killed."""

SPACING = 0.1
"""Seconds between two snapshots at tasks' ends: a thousand small tasks a second must not keep the parent reading."""

EXIT_WAIT = 0.2
"""Seconds that the last snapshot waits for room."""


def own_snapshot(slot: int, seq: int) -> ChildSnapshot:
    """This process's numbers now."""
    gauges = STATS.gauges()  # first: a source that fails is counted
    return ChildSnapshot(os.getpid(), STATS.nonce, slot, seq, STATS.counters(), gauges)


class Writer:
    """A pool child's end. Its thread sends each second; `task_ended` sends sooner when something was counted."""

    def __init__(self, sock: socket.socket, slot: int) -> None:
        self._socket = sock
        self._slot = slot
        self._seq = 0
        self._sent_changes = 0
        self._sent_at = float("-inf")
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="loopwatch-snapshots", daemon=True)

    def start(self) -> None:
        REPORTS.open()
        self._thread.start()

    def task_ended(self) -> None:
        """Sends a snapshot if something was counted since the last one; soon, if that was only just sent."""
        if STATS.changes == self._sent_changes:
            return
        if time.monotonic() - self._sent_at >= SPACING:
            self.send()
        else:
            self._wake.set()

    def finish(self) -> None:
        """Sends the last snapshot, waiting for room for at most `EXIT_WAIT`, and ends the thread."""
        self._stopping = True
        self._wake.set()
        self.send(deadline=time.monotonic() + EXIT_WAIT)

    def send(self, deadline: float | None = None) -> bool:
        """Sends a snapshot; false when it was dropped. Waits for room only until ``deadline`` (monotonic)."""
        with self._lock:
            self._seq += 1
            self._sent_at = time.monotonic()
            changes = STATS.changes
            for datagram in wire.encode_child(own_snapshot(self._slot, self._seq)):
                if not self._send(datagram, deadline):
                    return False
            self._sent_changes = changes
            return self._send_reports(deadline)

    def _send_reports(self, deadline: float | None) -> bool:
        """Sends what there is to tell of conflicts; what finds no room stays for the next time."""
        pending = REPORTS.pending
        while pending:
            if not self._send(pending[0].encode(), deadline):
                return False
            pending.popleft()
        return True

    def _send(self, datagram: bytes, deadline: float | None) -> bool:
        while True:
            try:
                self._socket.send(datagram, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if deadline is None or (left := deadline - time.monotonic()) <= 0:
                    STATS.count(catalogue.TELEMETRY_DROPPED, ("channel_full",))
                    return False
                # Not poll(): the kernel calls such a socket writable once three quarters of its buffer are free.
                time.sleep(min(left, 0.005))
            except OSError:  # the parent is gone, or the datagram is larger than any buffer
                STATS.count(catalogue.TELEMETRY_DROPPED, ("error",))
                return False
            else:
                return True

    def _run(self) -> None:
        while not self._stopping:
            if self._wake.wait(INTERVAL):
                self._wake.clear()
                time.sleep(max(0.0, self._sent_at + SPACING - time.monotonic()))
            if not self._stopping:
                self.send()


def _exists(pid: int) -> bool:
    """Whether a child of ours with this pid exists, as a zombie too: the pool reaps it before it makes the next."""
    try:
        os.kill(pid, 0)
    except OSError:  # gone, or the pid of another user's process by now
        return False
    return True


class Channel:
    """The parent's end: the socket pair, a thread that reads it, and what the children told.

    Made before the pool forks and started after it, so that no thread of ours runs while the pool is made.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self._reader, self._writer):
            end.setblocking(False)  # MSG_DONTWAIT alone means nothing to gevent's and eventlet's sockets
        self._pid = os.getpid()
        self._children = Children()
        self._lock = threading.Lock()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._door: Door | None = None

    def in_parent(self) -> bool:
        """Whether this is the process that made it."""
        return os.getpid() == self._pid

    def writer(self, slot: int) -> Writer:
        """In a forked child: its end. The other one is the parent's alone."""
        self._reader.close()
        return Writer(self._writer, slot)

    def open_door(self) -> str:
        """Lets children in that inherit no socket; the address that they need. Before `start`."""
        if self._door is None:
            self._door = Door()
        return self._door.address

    def start(self) -> None:
        """Starts the reading thread."""
        self._thread = threading.Thread(target=self._read, name="loopwatch-children", daemon=True)
        self._thread.start()

    def tables(self) -> tuple[Table, dict[int, Table]]:
        """The sums of all children ever, and the live ones' gauges by slot."""
        with self._lock:
            self._drain()
            dead = {pid for pid in self._children.pids() if not _exists(pid)}
            self._drain()  # again: what they sent between the two, before they died
            if lost := self._children.bury(dead):
                STATS.count(catalogue.TELEMETRY_DROPPED, ("series_limit",), lost)
            return self._children.counters(), self._children.gauges()

    def close(self) -> None:
        """Ends the thread and closes the sockets."""
        self._closing = True
        with suppress(OSError):  # full: then it is about to wake anyway
            self._writer.send(b"", socket.MSG_DONTWAIT)
        if self._thread is not None:
            self._thread.join(timeout=1)
        with self._lock:
            self._reader.close()
            self._writer.close()
            if self._door is not None:
                self._door.close()

    def _read(self) -> None:
        if not hasattr(select, "poll"):  # eventlet has taken it away; its pool has no children either
            return
        poll = select.poll()  # not select(), which refuses descriptors above 1023
        poll.register(self._reader, select.POLLIN)
        if self._door is not None:
            poll.register(self._door, select.POLLIN)
        while not self._closing:
            poll.poll()
            with self._lock:
                self._drain()

    def _drain(self) -> None:
        self._empty(lambda size: self._reader.recv(size, socket.MSG_DONTWAIT))
        if self._door is not None:
            self._empty(self._door.receive)

    def _empty(self, receive: Callable[[int], bytes | None]) -> None:
        while not self._closing:
            try:
                datagram = receive(2 * wire.MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            if datagram is None:
                STATS.count(catalogue.TELEMETRY_DROPPED, ("foreign",))
            elif datagram:
                self._take(datagram)

    def _take(self, datagram: bytes) -> None:
        try:
            if datagram.startswith(b"{"):
                REPORTS.forward(decode_report(datagram))
            else:
                self._children.add(datagram)
        except ValueError:
            STATS.count(catalogue.TELEMETRY_DROPPED, ("malformed",))
