"""Which hosts there are, and which workers are up: by our own receive clock, under the full node name.

A host is whoever sends events: a worker, or a client that sends tasks (``gen<pid>@host``), whose series must end some
day as well. Two workers on one machine are two (`a@h`, `b@h`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loopwatch_monitor.state.ledger import Now

__all__ = ["Host", "Workers"]

MAX_HOSTS = 5_000


@dataclass(slots=True)
class Host:
    """One sender of events. ``worker``: it has sent what only workers send; ``active`` comes with heartbeats."""

    first_seen: float
    last_seen: float
    worker: bool = False
    up: bool = False
    active: int = 0


class Workers:
    """Every sender of events.

    Args:
        timeout: seconds of silence after which a worker is down; 0 = never.
        purge: seconds of silence after which a host is forgotten; 0 = never.
        limit: the most hosts. Further ones are refused rather than old ones evicted, so that a counter that is
            exposed does not begin anew.
    """

    def __init__(self, *, timeout: float, purge: float, limit: int = MAX_HOSTS) -> None:
        self._timeout = timeout
        self._purge = purge
        self.limit = limit
        self.hosts: dict[str, Host] = {}

    def seen(self, hostname: str, now: Now) -> Host | None:
        """Notes a sign of life and gives the host, or ``None`` when the table is full."""
        host = self.hosts.get(hostname)
        if host is None:
            if len(self.hosts) >= self.limit:
                return None
            host = self.hosts[hostname] = Host(now.monotonic, now.monotonic)
        host.last_seen = now.monotonic
        return host

    def worked(self, hostname: str, now: Now) -> Host | None:
        """A sign of life that only a worker gives. One that has said goodbye may still have batched events under way:
        only a heartbeat (`beat`) brings it back."""
        host = self.hosts.get(hostname)
        if host is None or not host.worker:
            host = self.seen(hostname, now)
            if host is None:
                return None
            host.worker = host.up = True
        host.last_seen = now.monotonic
        return host

    def beat(self, hostname: str, active: int | None, now: Now) -> Host | None:
        """A worker came online or sent a heartbeat."""
        host = self.seen(hostname, now)
        if host is not None:
            host.worker = host.up = True
            host.active = max(active or 0, 0)
        return host

    def left(self, hostname: str, now: Now) -> Host | None:
        """A worker said goodbye."""
        host = self.seen(hostname, now)
        if host is not None:
            host.worker, host.up, host.active = True, False, 0
        return host

    def tick(self, now: Now) -> set[str]:
        """Marks silent workers as down; returns the hosts that were purged."""
        purged = set()
        for hostname, host in self.hosts.items():
            silent = now.monotonic - host.last_seen
            if self._purge and silent >= self._purge:
                purged.add(hostname)
            elif self._timeout and silent >= self._timeout and host.up:
                host.up, host.active = False, 0
        for hostname in purged:
            del self.hosts[hostname]
        return purged

    def workers(self) -> Iterator[tuple[str, Host]]:
        """All workers, up or down."""
        return ((hostname, host) for hostname, host in self.hosts.items() if host.worker)
