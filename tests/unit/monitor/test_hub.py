"""Where the intake and the pages meet: neither waits long for the other."""

from __future__ import annotations

import threading
from collections import Counter

from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.ledger import Now


def test_an_intake_need_not_wait_while_a_page_is_made() -> None:
    """The clock is read with the state locked: what holds it holds the lock."""
    locked, go_on = threading.Event(), threading.Event()
    pages: list[threading.Thread] = []

    def clock() -> Now:
        if threading.current_thread() in pages:
            locked.set()
            go_on.wait()
        return Now(0.0, 1e9)

    hub = Hub(Settings(broker_url="memory://"), status=BrokerStatus(up=True), version="1", clock=clock)
    page = threading.Thread(target=hub.page)
    pages.append(page)
    page.start()
    locked.wait()
    batch = Batch(malformed=Counter(json=3))
    assert not hub.receive(batch, wait=0.001)
    go_on.set()
    page.join()
    assert hub.receive(batch, wait=0.001)
    assert b'loopwatch_monitor_events_malformed_total{reason="json"} 3\n' in hub.page()
