"""Where the intake and the pages meet: neither waits long for the other."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter

import pytest

from loopwatch.telemetry.wire import EVENT_TYPE, NodeInfo, NodeSnapshot
from loopwatch_monitor.hub import _PAUSES, Hub
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.ledger import Now
from tests.unit.monitor.monitored import batch


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


@pytest.mark.parametrize("pauses", [3, _PAUSES])
def test_a_page_gives_way_to_a_flood_of_events_but_not_for_ever(monkeypatch: pytest.MonkeyPatch, pauses: int) -> None:
    """While it waits it has not begun: the clock is read, with the state locked, for every family."""
    status, waits = BrokerStatus(up=True, flooded=True), 0

    def clock() -> Now:
        assert waits in (0, pauses)
        return Now(0.0, 1e9)

    def sleep(seconds: float) -> None:
        nonlocal waits
        assert not hub._lock._held.locked()
        waits += 1
        status.flooded = waits < 3 or pauses > 3

    hub = Hub(Settings(broker_url="memory://"), status=status, version="1", clock=clock)
    monkeypatch.setattr(time, "sleep", sleep)
    assert b"loopwatch_monitor_broker_up 1\n" in hub.page()
    assert waits == pauses


@pytest.mark.parametrize("cut_off", [True, False], ids=["a broker that is away", "a monitor that is stopped"])
def test_nobody_is_forgotten_for_what_we_could_not_hear(cut_off: bool) -> None:
    status, now = BrokerStatus(), 0.0
    hub = Hub(Settings(broker_url="memory://"), status=status, version="1", clock=lambda: Now(now, 1e9 + now))
    status.connected()
    said = {"hostname": "w@h", "timestamp": 1e9}
    snapshot = NodeSnapshot("boot", 1, 5.0, NodeInfo(), {"loop_stalls_total": {(): 3}}, {}).to_fields()
    hub.receive(
        batch(
            json.dumps([said | {"type": "task-started", "uuid": "1"}, said | {"type": EVENT_TYPE} | snapshot]).encode()
        )
    )
    hub.receive(batch(json.dumps(said | {"type": "worker-heartbeat"}).encode()))

    def passes(seconds: int) -> str:
        nonlocal now
        for _ in range(seconds // 5):
            now += 5
            hub.tick()
        return hub.page().decode()

    def shown(page: str) -> list[bool]:
        names = ('celery_worker_up{hostname="w@h"}', "celery_task_started_total{", "loopwatch_loop_stalls_total{")
        return [name in page for name in names]

    assert shown(passes(10)) == [True, True, True]
    if cut_off:
        status.disconnected()
        page = passes(2_000)
        assert shown(page) == [True, True, True]
        assert 'celery_worker_up{hostname="w@h"} 0\n' in page
        status.connected()
    else:
        now += 2_000
    assert shown(passes(500)) == [True, True, True]
    assert shown(passes(100)) == [False, False, False]
