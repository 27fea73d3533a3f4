"""From a process to the broker: one Celery event per node and interval, published by a daemon thread.

Nothing waits for it: a broker that is down or hangs costs this thread its time (its sockets have timeouts) and the
event its place, which is counted; as every snapshot is cumulative, the next one makes up for it. Nothing is buffered.

`Reporter` is what a worker's parent runs (`loopwatch.celery`); `report` is for every other process: an API, a script.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

from loopwatch._version import __version__
from loopwatch.errors import ConfigurationError
from loopwatch.loop_lag import LoopLag
from loopwatch.stalls import STALLS, check_stall_threshold
from loopwatch.telemetry import catalogue, wire
from loopwatch.telemetry.channel import own_snapshot
from loopwatch.telemetry.children import forget_unused_pools, gather_gauges, merge_gauges
from loopwatch.telemetry.conflict_reports import REPORTS
from loopwatch.telemetry.stats import STATS
from loopwatch.telemetry.wire import NodeInfo, NodeSnapshot, Table

__all__ = ["Publisher", "Reporter", "check_interval", "report"]

logger = logging.getLogger("loopwatch")

STOP_TIMEOUT = 1.0
"""Seconds that a process which ends waits for its last event."""

FORK_WAIT = 0.05
"""Seconds that a fork waits for a publication that is under way; one that takes longer is waiting for the network."""


class Publisher(Protocol):
    """Where events go."""

    def publish(self, type: str, fields: dict[str, Any]) -> None:
        """Sends one event or raises; never blocks for longer than its sockets' timeouts."""

    def close(self) -> None:
        """Closes its sockets, without a goodbye that somebody would have to answer."""


class Reporter:
    """Publishes a node's snapshot each ``interval`` seconds, until `stop`.

    Args:
        publisher: where the events go; used by this object's thread alone.
        info: what the node is, asked for each snapshot (its queues may change).
        children: the sums of the node's other processes and their gauges by slot, or ``None``: there are none.
        slot: this process's own slot.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        interval: float,
        info: Callable[[], NodeInfo],
        children: Callable[[], tuple[Table, dict[int, Table]]] | None = None,
        slot: int = 0,
    ) -> None:
        self._publisher = publisher
        self._interval = interval
        self._info = info
        self._children = children
        self._slot = slot
        self._boot = secrets.token_hex(8)
        self._seq = 0
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loopwatch-reporter", daemon=True)

    def start(self) -> None:
        REPORTS.open()
        self._thread.start()

    def stop(self) -> None:
        """Publishes a last snapshot that says so, and waits for that for at most `STOP_TIMEOUT`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)

    def snapshot(self, *, stopping: bool = False) -> NodeSnapshot:
        """The node's numbers now."""
        self._seq += 1
        own = own_snapshot(self._slot, self._seq)
        counters, gauges = self._children() if self._children else ({}, {})
        wire.add_tables(counters, own.counters)
        if gauges:
            forget_unused_pools(own.gauges)
        # Merged: the parent of a pool has no index of its own and shares slot 0.
        merge_gauges(gauges.setdefault(self._slot, {}), own.gauges)
        gather_gauges(gauges, self._slot)
        return NodeSnapshot(self._boot, self._seq, self._interval, self._info(), counters, gauges, stopping)

    def _run(self) -> None:
        # A fleet that is deployed at once must not speak at once.
        due = time.monotonic() + random.uniform(0, self._interval)  # noqa: S311  # not a secret
        while not self._stop.wait(due - time.monotonic()):
            self._publish()
            due = max(due + self._interval, time.monotonic())
        self._publish(stopping=True)
        self._publisher.close()

    def _publish(self, *, stopping: bool = False) -> None:
        try:
            fields = self.snapshot(stopping=stopping).to_fields()
            with _publishing:
                self._publisher.publish(wire.EVENT_TYPE, fields)
                self._publish_reports()
        except Exception as error:  # noqa: BLE001  # whatever a transport raises: monitoring is silent, and counts
            STATS.count(catalogue.TELEMETRY_DROPPED, ("broker",))
            if not self._failing:
                # Its type alone: the text may hold the broker's URL. That of a package that is missing cannot.
                what = f"{error}" if isinstance(error, ImportError) else type(error).__name__
                logger.warning("loopwatch cannot publish its snapshots for now: %s", what)
            self._failing = True
        else:
            self._failing = False

    def _publish_reports(self) -> None:
        pending = REPORTS.pending
        while pending:
            self._publisher.publish(wire.CONFLICT_TYPE, pending[0].to_fields())
            pending.popleft()  # published: one that was not stays for the next time


class _Publishing:
    """Held while the broker's client is used, and by a fork.

    kombu's cached properties share one lock per class: a pool child forked while our thread holds one would wait for
    it for ever when its own task publishes something.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forker: int | None = None  # the thread that forks and holds the lock; others may fork meanwhile

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        if self._lock.acquire(timeout=FORK_WAIT):
            self._forker = threading.get_ident()

    def after_fork_in_parent(self) -> None:
        if self._forker == threading.get_ident():
            self._forker = None
            self._lock.release()


_publishing = _Publishing()


def _after_fork_in_child() -> None:
    global _publishing
    _publishing = _Publishing()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _publishing.before_fork(),
        after_in_parent=lambda: _publishing.after_fork_in_parent(),
        after_in_child=_after_fork_in_child,
    )


def check_interval(interval: float) -> None:
    """Raises `ConfigurationError` unless it is a possible interval."""
    if not 0.1 <= interval <= 3600:
        raise ConfigurationError(f"interval={interval!r}: seconds between snapshots, from 0.1 to 3600 (default 5)")


@contextmanager
def report(
    app: Any, *, name: str, interval: float = 5.0, release: str = "", stall_threshold: float | None = 1.0
) -> Iterator[None]:
    """Reports this process to the monitor while the block runs, as the node ``name@host``.

    For processes that are no Celery workers: an API, a script. Those of one name on one host are told apart by their
    slot, the lowest number that is free. A process is either reported or scraped (`loopwatch.Collector`), never both.
    Inside a running event loop, that loop's lag is measured as well.

    >>> from celery import Celery
    >>> with report(Celery("app", broker="memory://"), name="script"):
    ...     pass

    Args:
        app: the Celery application, whose broker the monitor watches.
        name: what the process is, such as ``api``.
        interval: seconds between snapshots.
        release: the application's version, shown with the node.
        stall_threshold: seconds that a loop may be blocked before the stack that blocks it is logged and counted;
            ``None``: none is.

    Raises:
        ConfigurationError: the name is empty or holds ``@``, or the interval or the threshold is out of range; or this
            process reports itself already, to whatever broker.
    """
    from loopwatch.celery.publisher import EventPublisher, celery_version

    if not name or "@" in name:
        raise ConfigurationError(f"report(name={name!r}): a name such as 'api', without the host")
    check_interval(interval)
    check_stall_threshold(stall_threshold)
    node = f"{name}@{socket.gethostname()}"
    info = NodeInfo(
        kind="process",
        start_time=time.time(),
        celery_version=celery_version(),
        loopwatch_version=__version__,
        release=release,
    )
    slot, claim = _claim_slot(node)
    reporter = Reporter(EventPublisher(app, node), interval=interval, info=lambda: info, slot=slot)
    with closing(claim), _only_one(node):
        reporter.start()
        try:
            with _watching(f"the event loop of {name!r}", stall_threshold):
                yield
        finally:
            reporter.stop()


_reported: dict[int, str] = {}
"""The node that a process reports itself as, by its pid: a forked child has its own to say."""


@contextmanager
def _only_one(node: str) -> Iterator[None]:
    """The numbers are the process's: told by two nodes, they would count twice."""
    pid = os.getpid()
    known = _reported.setdefault(pid, node)
    if known is not node:
        raise ConfigurationError(
            f"report({node!r}): this process reports itself as {known!r} already, and its numbers would count twice: "
            "call report() once, where the process begins"
        )
    try:
        yield
    finally:
        _reported.pop(pid, None)


@contextmanager
def _watching(name: str, stall_threshold: float | None) -> Iterator[None]:
    """Watches the loop that is running here, if one is."""
    before = STALLS.threshold
    STALLS.configure(stall_threshold)
    loop = asyncio._get_running_loop()
    lag = LoopLag(loop, name) if loop is not None else None
    try:
        if lag is not None:
            lag.start()
            lag.resume()
        yield
    finally:
        if lag is not None:
            lag.stop()
        STALLS.configure(before)


def _claim_slot(node: str) -> tuple[int, socket.socket]:
    """The lowest slot that no other process of this node has, and the socket that holds it until it is closed.

    An abstract Unix socket: no file, and the kernel frees it when the process dies. Elsewhere than on Linux there are
    none, and the slot is 0.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    # A node's name may be longer than the address of a socket can be.
    place = hashlib.sha256(node.encode()).hexdigest()[:32]
    for slot in range(10_000) if hasattr(socket, "SO_PASSCRED") else ():
        try:
            claim.bind(f"\0loopwatch/{place}/{slot}")
        except OSError:
            continue
        return slot, claim
    return 0, claim
