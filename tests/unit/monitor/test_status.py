"""What an intake tells of its connection; the lock that is handed over."""

from __future__ import annotations

import threading

from loopwatch_monitor.fair_lock import FairLock
from loopwatch_monitor.intake.status import BrokerStatus


def test_seconds_without_a_connection_add_up() -> None:
    now = [100.0]
    status = BrokerStatus(_clock=lambda: now[0])
    now[0] = 103.0
    assert (status.up, status.seconds_down()) == (False, 3.0)
    status.connected()
    status.connected()
    now[0] = 110.0
    assert (status.up, status.seconds_down(), status.lost) == (True, 3.0, 0)
    status.disconnected()
    now[0] = 112.0
    status.disconnected()
    assert (status.up, status.seconds_down(), status.lost) == (False, 5.0, 1)
    status.connected()
    now[0] = 120.0
    assert (status.seconds_down(), status.lost) == (5.0, 1)


def test_who_waits_for_the_lock_gets_it_next() -> None:
    """Even though the other thread wants it again at once."""
    lock, had = FairLock(), threading.Event()

    def wait() -> None:
        with lock:
            had.set()

    other = threading.Thread(target=wait)
    with lock:
        other.start()
        while not lock._next.locked():
            assert other.is_alive()
    with lock:
        assert had.is_set()
    other.join()
