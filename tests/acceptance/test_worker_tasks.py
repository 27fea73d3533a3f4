"""Tasks on real workers: soft time limits, orphans, and which loop they run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery

from tests.acceptance.workers import DEADLINE, Worker, wait_until, worker
from tests.postgres import states

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def client(redis_url: str) -> Iterator[Celery]:
    with Celery("client", broker=redis_url, backend=redis_url) as app:
        yield app


def _send(client: Celery, task: str, *args: object, **options: Any) -> Any:
    return client.send_task(f"tests.acceptance.worker_app.{task}", args, **options)


@pytest.fixture
def prefork(redis_url: str, database_url: str, tmp_path: Path) -> Iterator[Worker]:
    environment = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    with worker("w", tmp_path / "log", environment, "-c", "1") as running:
        yield running


@pytest.mark.parametrize("task", ["hold", "block"])
def test_a_soft_limit_returns_the_connection_before_the_next_task(
    prefork: Worker, client: Celery, database_url: str, task: str
) -> None:
    # The child is connected then: the limit is for the transaction alone, which has begun long before.
    assert _send(client, "query").get(timeout=DEADLINE) == 1
    result = _send(client, task, soft_time_limit=5)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=DEADLINE)
    # The result is stored after the exception has left the coroutine.
    assert states(database_url) == ["idle"]
    assert _send(client, "query").get(timeout=DEADLINE) == 1
    assert states(database_url) == ["idle"]


def test_a_hard_limit_leaves_no_session(prefork: Worker, client: Celery, database_url: str) -> None:
    from celery.exceptions import TimeLimitExceeded

    assert _send(client, "query").get(timeout=DEADLINE) == 1
    assert states(database_url)
    with pytest.raises(TimeLimitExceeded):
        _send(client, "hold", time_limit=1).get(timeout=DEADLINE)
    wait_until(lambda: not states(database_url), lambda: states(database_url))


def test_an_orphan_never_resumes_in_the_next_task(prefork: Worker, client: Celery) -> None:
    _send(client, "leave_an_orphan").get(timeout=DEADLINE)
    before, after = _send(client, "what_the_orphan_did", 0.3).get(timeout=DEADLINE)
    assert before == after
    assert before, "it ran while its task did"


def test_a_child_keeps_one_loop(prefork: Worker, client: Celery) -> None:
    loops = {_send(client, "who").get(timeout=DEADLINE)[1] for _ in range(5)}
    assert len(loops) == 1


def test_threads_share_one_loop_and_each_coroutine_has_its_own_request(
    client: Celery, redis_url: str, tmp_path: Path
) -> None:
    with worker("w", tmp_path / "log", {"REDIS_URL": redis_url}, "-P", "threads", "-c", "4"):
        results = [_send(client, "who", 0.2) for _ in range(12)]
        answers = [result.get(timeout=DEADLINE) for result in results]
    assert [identifier for identifier, _, _ in answers] == [result.id for result in results]
    assert len({loop for _, loop, _ in answers}) == 1
    assert {queue for _, _, queue in answers} == {"celery"}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_uvloop_by_a_setting(client: Celery, redis_url: str, database_url: str, tmp_path: Path, pool: str) -> None:
    environment = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "EVENT_LOOP": "uvloop"}
    application = "tests.acceptance.pools_app"
    with worker("w", tmp_path / "log", environment, "-P", pool, "-c", "2", app=application):
        answer = client.send_task(f"{application}.who").get(timeout=DEADLINE)
        assert answer["kind"].startswith("uvloop")
        assert client.send_task(f"{application}.query").get(timeout=DEADLINE) == 1
    wait_until(lambda: not states(database_url), lambda: states(database_url))
