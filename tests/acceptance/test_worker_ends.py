"""How a task, a pool child and a worker can end on prefork: afterwards nothing is left on the database's server."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from loopwatch.telemetry import catalogue
from tests.acceptance.workers import DEADLINE, Listener, Worker, wait_until, worker
from tests.postgres import states

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def listener(redis_url: str) -> Iterator[Listener]:
    with Listener(redis_url) as listening:
        yield listening


@pytest.fixture
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "AUTOSCALE_KEEPALIVE": "1"}


@pytest.fixture
def sessions(database_url: str) -> Callable[[], list[str]]:
    """What the worker's database sessions are doing."""
    return partial(states, database_url)


def _send(client: Celery, task: str, *args: object, **options: Any) -> Any:
    return client.send_task(f"tests.acceptance.worker_app.{task}", args, **options)


def _is_revoked(result: Any) -> bool:
    return bool(result.state == "REVOKED")


def test_a_task_that_is_terminated_or_runs_out_of_time_leaves_no_session(
    listener: Listener, environment: dict[str, str], sessions: Callable[[], list[str]], tmp_path: Path
) -> None:
    with worker("w", tmp_path / "log", environment, "-c", "1"):
        for number in ("SIGTERM", "SIGKILL"):
            result = _send(listener.app, "hold")
            wait_until(lambda: sessions() == ["idle in transaction"], sessions)
            listener.app.control.revoke(result.id, terminate=True, signal=number)
            wait_until(partial(_is_revoked, result))
            wait_until(lambda: not sessions(), sessions)
        # The child is connected then: the time is for the transaction alone, which has begun long before.
        assert _send(listener.app, "query").get(timeout=DEADLINE) == 1
        with pytest.raises(TimeoutError):
            _send(listener.app, "hold_with_a_timeout", 5.0).get(timeout=DEADLINE)
        assert sessions() == ["idle"]
        assert _send(listener.app, "query").get(timeout=DEADLINE) == 1


SHUTS_DOWN = re.compile("Warm shutdown|Got shutdown from remote")


def _remotely(running: Worker, listener: Listener) -> None:
    listener.app.control.shutdown(destination=[running.node])


def _warmly(running: Worker, listener: Listener) -> None:
    running.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("shut_down", [_warmly, _remotely])
def test_a_warm_shutdown_waits_for_its_tasks_and_leaves_no_session(
    listener: Listener,
    environment: dict[str, str],
    sessions: Callable[[], list[str]],
    tmp_path: Path,
    shut_down: Callable[[Worker, Listener], None],
) -> None:
    release = tmp_path / "release"
    with worker("w", tmp_path / "log", environment, "-c", "2") as running:
        results = [_send(listener.app, "work", str(release)) for _ in range(2)]
        # A transaction that has begun may still be asked something: it has been once the task has notified.
        wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) == 2, lambda: listener.snapshots)
        assert sessions() == ["idle in transaction"] * 2
        shut_down(running, listener)
        wait_until(lambda: SHUTS_DOWN.search(running.log), lambda: running.log)
        assert sessions() == ["idle in transaction"] * 2
        release.touch()
        for result in results:
            assert result.get(timeout=DEADLINE)
        assert running.process.wait(DEADLINE) == 0
        wait_until(lambda: not sessions(), sessions)
        listener.last(running.node)
        assert listener.sum(running.node, catalogue.NOTIFICATIONS) == 2
        assert listener.sum(running.node, catalogue.ENGINES_DISPOSED, "main", "process_exit") == 2


def test_a_cold_shutdown_leaves_no_session(
    listener: Listener, environment: dict[str, str], sessions: Callable[[], list[str]], tmp_path: Path
) -> None:
    with worker("w", tmp_path / "log", environment, "-c", "1") as running:
        result = _send(listener.app, "hold")
        wait_until(lambda: sessions() == ["idle in transaction"], sessions)
        # Celery cancels what it knows to have begun, and waits for the end of what it does not.
        listener.wait_until_active(running.node, {result.id})
        running.process.send_signal(signal.SIGQUIT)
        running.process.wait(DEADLINE)
        wait_until(lambda: not sessions(), sessions)


@pytest.mark.parametrize("option", ["--max-tasks-per-child=1", "--max-memory-per-child=1"])
def test_children_that_are_replaced_leave_no_session_and_lose_no_count(
    listener: Listener, environment: dict[str, str], sessions: Callable[[], list[str]], tmp_path: Path, option: str
) -> None:
    release = tmp_path / "release"
    release.touch()
    with worker("w", tmp_path / "log", environment, "-c", "2", option) as running:
        pids = [_send(listener.app, "work", str(release)).get(timeout=DEADLINE) for _ in range(6)]
        assert len(set(pids)) == 6
        wait_until(lambda: not sessions(), sessions)
        wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) == 6, lambda: listener.snapshots)
        wait_until(
            lambda: listener.sum(running.node, catalogue.ENGINES_DISPOSED, "main", "process_exit") == 6,
            lambda: listener.snapshots,
        )


@pytest.mark.parametrize("option", ["--autoscale=4,1", "--concurrency=1"])
def test_a_pool_that_grows_and_shrinks_leaves_no_session_and_loses_no_count(
    listener: Listener, environment: dict[str, str], sessions: Callable[[], list[str]], tmp_path: Path, option: str
) -> None:
    by_hand = option == "--concurrency=1"
    first, second = tmp_path / "first", tmp_path / "second"
    with worker("w", tmp_path / "log", environment, option) as running:
        listener.wait_for_control(running.node)
        if by_hand:
            listener.app.control.pool_grow(3)
            wait_until(lambda: len(running.children()) == 4, running.children)
        results = [_send(listener.app, "work", str(release)) for release in (first, second) for _ in range(4)]
        wait_until(lambda: sessions() == ["idle in transaction"] * 4, sessions)
        first.touch()
        # Celery takes a child for idle, and may end it, while it does not know that the child's task has begun.
        listener.wait_until_active(running.node, {result.id for result in results[4:]})
        second.touch()
        pids = {result.get(timeout=DEADLINE) for result in results}
        assert len(pids) == 4
        if by_hand:
            listener.wait_until_active(running.node, set())
            listener.app.control.pool_shrink(3)
        wait_until(lambda: len(running.children()) == 1, lambda: (running.children(), running.log))
        wait_until(lambda: len(sessions()) <= 1, sessions)
        assert not [pid for pid in pids - running.children() if _lives(pid)]
        wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) == 8, lambda: listener.snapshots)
    wait_until(lambda: not sessions(), sessions)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
