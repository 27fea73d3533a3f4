"""The ways in which a worker is run: by `celery multi`, inside another program, with a pool that grows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwatch.telemetry import catalogue
from tests.acceptance.workers import DEADLINE, ROOT, Listener, wait_until, worker

pytestmark = pytest.mark.timeout(300)

EMBEDDED = """
import sys, threading
from tests.acceptance.worker_app import DEADLINE, app
worker = app.Worker(pool="solo", hostname="embedded@test", without_mingle=True, without_gossip=True, quiet=True)
thread = threading.Thread(target=worker.start)
thread.start()
thread.join()
ours = [thread for thread in threading.enumerate() if thread.name.startswith("loopwatch")]
for thread in ours:
    thread.join(DEADLINE)  # it has been told to end
left = sorted(thread.name for thread in ours if thread.is_alive())
sys.exit(f"left behind: {left}" if left else 0)
"""


@pytest.fixture
def listener(redis_url: str) -> Iterator[Listener]:
    with Listener(redis_url) as listening:
        yield listening


def _notify(listener: Listener, **options: Any) -> int:
    result = listener.app.send_task("tests.acceptance.worker_app.notify", **options)
    return int(result.get(timeout=DEADLINE))


def test_several_workers_of_celery_multi(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    def multi(command: str, *options: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "celery", "multi", command, "one@test", "two@test", *options, *files],
            env={**os.environ, "REDIS_URL": redis_url},
            cwd=ROOT,
            check=True,
            timeout=3 * DEADLINE,  # three interpreters and more, one after the other
            capture_output=True,
        )

    files = (f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n.log")
    options = ("-c", "1", "--without-mingle", "--without-gossip", "-Q:one@test", "logs", "-Q:two@test", "content")
    nodes = {"one@test": "logs", "two@test": "content"}
    try:
        multi("start", "-A", "tests.acceptance.worker_app", "-l", "INFO", *options)
        _notify(listener, queue="logs")
        _notify(listener, queue="content")
        wait_until(
            lambda: all(listener.sum(node, catalogue.NOTIFICATIONS, queue) == 1 for node, queue in nodes.items()),
            lambda: listener.snapshots,
        )
        for node, queue in nodes.items():
            assert listener.snapshots[node]["info"]["queues"] == [queue]
            assert listener.sum(node, catalogue.NOTIFICATIONS) == 1
    finally:
        multi("stopwait")
    for node in nodes:
        listener.last(node)


def test_a_worker_inside_another_program(listener: Listener, redis_url: str) -> None:
    program = subprocess.Popen([sys.executable, "-c", EMBEDDED], env={**os.environ, "REDIS_URL": redis_url}, cwd=ROOT)
    try:
        assert _notify(listener) == program.pid
        wait_until(lambda: listener.sum("embedded@test", catalogue.NOTIFICATIONS) == 1, lambda: listener.snapshots)
        listener.app.control.shutdown(destination=["embedded@test"])
        assert program.wait(DEADLINE) == 0
        listener.last("embedded@test")
    finally:
        program.kill()
        program.wait()


def test_a_pool_that_grows_and_shrinks(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    def slots() -> set[str]:
        snapshot = listener.snapshots.get(running.node, {"gauges": {}})
        return {slot for slot, table in snapshot["gauges"].items() if "loops" in table}

    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "1") as running:
        control = listener.app.control
        listener.wait_for_control(running.node)
        wait_until(lambda: slots() == {"0"}, slots)
        control.pool_grow(2, destination=[running.node])
        wait_until(lambda: slots() == {"0", "1", "2"}, slots)
        wait_until(lambda: listener.snapshots[running.node]["info"]["slots"] == 3)
        for _ in range(6):
            _notify(listener)
        wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) == 6, lambda: listener.snapshots)
        listener.wait_until_active(running.node, set())
        control.pool_shrink(2, destination=[running.node])
        # One child is left, in whichever slot; the parent tells of itself in slot 0.
        wait_until(lambda: len(slots() - {"0"}) <= 1, slots)
        assert listener.sum(running.node, catalogue.NOTIFICATIONS) == 6
