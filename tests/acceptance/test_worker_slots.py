"""A pool child's slot: its place in the pool, which the child that replaces it takes over."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from loopwatch.telemetry import catalogue
from tests.acceptance.workers import DEADLINE, Listener, wait_until, worker


def test_recycled_children_take_over_their_slots(redis_url: str, tmp_path: Path) -> None:
    seen: set[str] = set()
    with (
        Listener(redis_url) as listener,
        worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "2", "--max-tasks-per-child=1") as running,
    ):

        def told(notifications: int) -> bool:
            seen.update(listener.snapshots.get(running.node, {"gauges": {}})["gauges"])
            return listener.sum(running.node, catalogue.NOTIFICATIONS) == notifications

        pids = set()
        for number in range(1, 7):
            result = listener.app.send_task("tests.acceptance.worker_app.notify")
            pids.add(int(result.get(timeout=DEADLINE)))
            wait_until(partial(told, number), lambda: listener.snapshots)
    assert len(pids) == 6
    assert seen <= {"0", "1"}
