"""A worker's numbers, as the monitor gets them: from real workers, over a real broker, without ``-E``."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import WorkerLostError
from kombu import Queue

from loopwatch.telemetry import catalogue
from tests.acceptance.workers import DEADLINE, Listener, wait_until, worker

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def listener(redis_url: str) -> Iterator[Listener]:
    with Listener(redis_url) as listening:
        yield listening


def _send(listener: Listener, task: str, *args: object, **options: Any) -> Any:
    return listener.app.send_task(f"tests.acceptance.worker_app.{task}", args, **options)


def test_recycled_children_lose_no_count(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "2", "--max-tasks-per-child=2") as running:
        pids = {_send(listener, "notify") for _ in range(20)}
        pids = {result.get(timeout=DEADLINE) for result in pids}
        assert len(pids) >= 10
        wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) == 20, lambda: listener.snapshots)
        before = listener.snapshots[running.node]
    last = listener.last(running.node)
    assert listener.sum(running.node, catalogue.NOTIFICATIONS, "celery", "notify") == 20
    assert listener.dropped(running.node) == {}
    assert last["boot"] == before["boot"]
    assert last["seq"] > before["seq"]
    info = last["info"]
    assert info["kind"] == "celery"
    assert info["pool_type"] == "prefork"
    assert info["queues"] == ["celery", "content", "logs"]
    assert info["slots"] == 2
    assert info["release"] == "1.2.3"
    # Only the snapshots came through loopwatch's own dispatcher: the worker runs without -E.
    assert not [name for name in listener.types if name.startswith("task-") and name != "task-sent"]


def test_a_killed_child_loses_nothing_that_it_had_told(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "1") as running:
        release = tmp_path / "release"
        result = _send(listener, "count_then_die", str(release))
        wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS, "celery", "dying") == 1)
        release.touch()
        with pytest.raises(WorkerLostError):
            result.get(timeout=DEADLINE)
        assert _send(listener, "notify").get(timeout=DEADLINE)
        wait_until(lambda: listener.sum(running.node, catalogue.NOTIFICATIONS) == 2, lambda: listener.snapshots)
        assert listener.sum(running.node, catalogue.NOTIFICATIONS, "celery", "dying") == 1
        # The dead child's gauges are gone: its task is not "running" for ever.
        wait_until(
            lambda: (
                listener.snapshots[running.node]["gauges"]["0"].get("task_oldest_running_seconds")
                == [[["celery"], 0.0]]
            ),
            lambda: listener.snapshots,
        )


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_pools_without_children_report_for_themselves(
    listener: Listener, redis_url: str, tmp_path: Path, pool: str
) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "3", "-P", pool) as running:
        results = [_send(listener, "notify") for _ in range(6)]
        pids = {result.get(timeout=DEADLINE) for result in results}
        assert pids == {running.process.pid}
    last = listener.last(running.node)
    assert listener.sum(running.node, catalogue.NOTIFICATIONS) == 6
    assert last["info"]["pool_type"] == pool
    assert last["info"]["slots"] == (1 if pool == "solo" else 3)


def test_facts_are_counted_for_the_queue_of_the_task(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "2") as running:
        for queue in ("logs", "content", "celery"):
            result = _send(listener, "who", queue=queue)
            identifier, _, seen = result.get(timeout=DEADLINE)
            assert identifier == result.id
            assert seen == queue
            _send(listener, "notify", queue=queue).get(timeout=DEADLINE)

        def counted(queue: str) -> bool:
            return listener.sum(running.node, catalogue.NOTIFICATIONS, queue) == 1

        for queue in ("logs", "content", "celery"):
            wait_until(partial(counted, queue), lambda: listener.snapshots)


ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("logs", {"exchange": "direct_logs", "routing_key": "rk.logs"}),
    ("content", {"exchange": "topics", "routing_key": "content.a.b"}),
    ("celery", {"queue": "celery"}),  # by the default exchange
    ("broadcast", {"exchange": "everybody", "routing_key": "whatever"}),
    ("priorities", {"exchange": "priorities", "routing_key": "rk.priorities", "priority": 3}),
    ("quorum", {"exchange": "quorums", "routing_key": "default"}),
    ("audits", {"exchange": "quorums", "routing_key": "audit.a"}),
    # Native delayed delivery: the key becomes 0.0. ... .1.default, and the exchange another one.
    ("quorum", {"exchange": "quorums", "exchange_type": "topic", "routing_key": "default", "countdown": 1}),
    ("audits", {"exchange": "quorums", "exchange_type": "topic", "routing_key": "audit.b", "countdown": 1}),
    ("content", {"exchange": "topics", "exchange_type": "topic", "routing_key": "content.c", "countdown": 1}),
]


@pytest.mark.parametrize("consumed", ["all", "three"])
def test_facts_are_counted_for_the_queue_of_the_task_on_rabbitmq(
    rabbitmq_url: str, redis_url: str, tmp_path: Path, consumed: str
) -> None:
    routes = ROUTES if consumed == "all" else [route for route in ROUTES if route[0] in ("logs", "quorum", "audits")]
    options = [] if consumed == "all" else ["-Q", "logs,quorum,audits"]
    environment = {"RABBITMQ_URL": rabbitmq_url, "REDIS_URL": redis_url, "MORE_QUEUES": "1"}
    with Listener(rabbitmq_url, results=redis_url) as listener:
        # A sender has to know of a quorum queue, or it delays nothing.
        listener.app.conf.task_queues = [Queue("quorum", queue_arguments={"x-queue-type": "quorum"})]
        with worker("w", tmp_path / "log", environment, "-c", "1", *options) as running:
            results = [(queue, _send(listener, "who", **route)) for queue, route in routes]
            assert [result.get(timeout=DEADLINE)[2] for _, result in results] == [queue for queue, _ in results]
            for _, route in routes:
                _send(listener, "notify", **{**route, "countdown": None})
            expected = Counter(queue for queue, _ in routes)
            wait_until(
                lambda: (
                    {queue: listener.sum(running.node, catalogue.NOTIFICATIONS, queue) for queue in expected}
                    == expected
                ),
                lambda: listener.snapshots,
            )
        rows = listener.last(running.node)["counters"][catalogue.NOTIFICATIONS.wire_name]
        assert {own[0] for own, _ in rows} == set(expected)


@pytest.mark.parametrize("retry", [False, True])
def test_conflicts_are_counted_from_failures_and_retries(
    listener: Listener, redis_url: str, tmp_path: Path, retry: bool
) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "1") as running:
        with pytest.raises(RuntimeError, match="different loop"):
            _send(listener, "conflict", retry).get(timeout=DEADLINE)
        attempts = 2 if retry else 1
        wait_until(lambda: listener.sum(running.node, catalogue.LOOP_CONFLICTS) == attempts, lambda: listener.snapshots)
    name = "tests.acceptance.worker_app.conflict"
    assert listener.sum(running.node, catalogue.LOOP_CONFLICTS, "celery", name) == attempts


def test_a_conflict_that_was_counted_is_not_counted_again(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "1") as running:
        result = _send(listener, "refused")
        result.get(timeout=DEADLINE, propagate=False)
        assert "different loop" in str(result.result)
    listener.last(running.node)
    assert listener.sum(running.node, catalogue.LOOP_CONFLICTS) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_a_process_does_at_its_end_is_counted(
    listener: Listener, redis_url: str, database_url: str, tmp_path: Path, pool: str
) -> None:
    """Engines are disposed of when the process ends, and the last snapshot comes after that."""
    environment = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    with worker("w", tmp_path / "log", environment, "-c", "1", "-P", pool) as running:
        assert _send(listener, "query").get(timeout=DEADLINE) == 1
        wait_until(lambda: listener.sum(running.node, catalogue.ENGINES_CREATED, "main") == 1)
    listener.last(running.node)
    assert listener.sum(running.node, catalogue.ENGINES_DISPOSED, "main", "process_exit") == 1


def test_spawned_children_report_as_forked_ones_do(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    """They inherit no socket, unpickle another application, and were not told of ``-Q``."""
    environment = {"REDIS_URL": redis_url, "START_METHOD": "spawn"}
    options = ("-c", "2", "--max-tasks-per-child=2", "-Q", "logs,content")
    with worker("w", tmp_path / "log", environment, *options) as running:
        sent = [_send(listener, "notify", queue="logs") for _ in range(6)]
        pids = {result.get(timeout=DEADLINE) for result in sent}
        assert running.process.pid not in pids
        assert len(pids) >= 3
        release = tmp_path / "release"
        result = _send(listener, "count_then_die", str(release), queue="content")
        wait_until(
            lambda: (
                listener.sum(running.node, catalogue.NOTIFICATIONS, "logs", "notify") == 6
                and listener.sum(running.node, catalogue.NOTIFICATIONS, "content", "dying") == 1
            ),
            lambda: (running.log, listener.snapshots),
        )
        release.touch()
        with pytest.raises(WorkerLostError):
            result.get(timeout=DEADLINE)
        wait_until(lambda: set(listener.snapshots[running.node]["gauges"]) == {"0", "1"}, lambda: listener.snapshots)
    last = listener.last(running.node)
    assert listener.sum(running.node, catalogue.NOTIFICATIONS) == 7
    assert listener.dropped(running.node) == {}
    assert last["info"]["queues"] == ["content", "logs"]


def test_a_worker_that_is_killed_says_nothing_more(listener: Listener, redis_url: str, tmp_path: Path) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-c", "1") as running:
        wait_until(lambda: running.node in listener.snapshots)
        children = running.children()
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(DEADLINE)
        # Nor does the child that it leaves.
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    listener.wait_for_all_sent()
    assert not listener.snapshots[running.node]["stopping"]
