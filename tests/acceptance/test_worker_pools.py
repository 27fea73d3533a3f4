"""``async def`` tasks on every pool of Celery: one real worker a pool, and what a task may be and do on each."""
# Celery is typed in parts.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import psycopg
import pytest
from celery import Celery, chain, chord, group

from app.demo.servers import Server
from loopwatch.telemetry import catalogue
from tests.acceptance.workers import DEADLINE, Listener, Worker, wait_until
from tests.postgres import states

pytestmark = pytest.mark.timeout(300)

APP = "tests.acceptance.pools_app"
# Those of `GREEN` first, as in the tests that are theirs alone: pytest groups tests by the place of a parameter.
SLOTS = {"gevent": 40, "eventlet": 40, "prefork": 1, "solo": 1, "threads": 40}
GREEN = ["gevent", "eventlet"]
_keys = count()


@dataclass
class Pool:
    name: str
    worker: Worker
    client: Celery
    database_url: str
    listener: Listener

    def send(self, task: str, *args: object, **options: Any) -> Any:
        name = task if "." in task else f"{APP}.{task}"
        return self.client.send_task(name, args, **options)

    def call(self, task: str, *args: object, **options: Any) -> Any:
        return self.send(task, *args, **options).get(timeout=DEADLINE)

    def task(self, name: str, *args: object) -> Any:
        return self.client.signature(f"{APP}.{name}", args)

    def sessions(self) -> list[str]:
        """The state of each of the worker's database sessions."""
        return states(self.database_url)

    def key(self) -> str:
        """A word that no other test uses."""
        return f"{self.name}-{next(_keys)}"


@pytest.fixture(scope="module", params=SLOTS)
def pool(
    request: pytest.FixtureRequest,
    redis_server: Server,
    postgres_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pool]:
    name: str = request.param
    url = postgres_server.url.removesuffix("postgres") + f"pool_{name}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE pool_{name}")
    # Database 0 of Redis is nobody else's; the queues have the pools' names.
    environment = {"REDIS_URL": redis_server.url, "DATABASE_URL": url.replace("postgresql:", "postgresql+asyncpg:")}
    client = Celery("client", broker=redis_server.url, backend=redis_server.url, set_as_current=False)
    client.conf.task_default_queue = "celery"
    options = ("-P", name, "-c", str(SLOTS[name]))
    with client, Listener(redis_server.url) as listener:
        worker = Worker(name, tmp_path_factory.mktemp("log") / "log", environment, *options, app=APP)
        try:
            yield Pool(name, worker, client, url, listener)
        finally:
            worker.stop()
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE pool_{name} WITH (FORCE)")


def test_a_coroutine_knows_its_task(pool: Pool) -> None:
    results = [
        pool.send("who", number, kwargs={"keyword": 2}, headers={"tenant": "seven"}, countdown=number % 2 * 0.1)
        for number in range(10)
    ]
    answers = [result.get(timeout=DEADLINE) for result in results]
    for number, (result, answer) in enumerate(zip(results, answers, strict=True)):
        assert answer["id"] == answer["prerun"] == result.id
        assert answer["arguments"] == [number, 2]
        assert answer["retries"] == 0
        assert answer["routing_key"] == answer["queue"] == "celery"
        assert answer["headers"]["tenant"] == "seven"
        assert bool(answer["eta"]) == bool(number % 2)
    assert len({answer["loop"] for answer in answers}) == 1, "one loop a process"


def test_retries(pool: Pool) -> None:
    own, automatic = pool.send("retried"), pool.send("retried_by_itself")
    assert own.get(timeout=DEADLINE) == 2
    assert automatic.get(timeout=DEADLINE) == 1


def test_chains_groups_and_chords(pool: Pool) -> None:
    chained = chain(pool.task("add", 1, 2), pool.task("add", 3))()
    grouped = group(pool.task("add", number, 1) for number in range(4))()
    chorded = chord([pool.task("add", number, 1) for number in range(4)])(pool.task("total"))
    assert chained.get(timeout=DEADLINE) == 6
    assert grouped.get(timeout=DEADLINE) == [1, 2, 3, 4]
    assert chorded.get(timeout=DEADLINE) == 10


@pytest.mark.parametrize(
    ("how", "hooks"),
    [
        ("succeed", ["before_start", "on_success", "after_return SUCCESS"]),
        ("fail", ["before_start", "on_failure", "after_return FAILURE"]),
        ("retry", ["before_start", "on_retry", "before_start", "on_success", "after_return SUCCESS"]),
    ],
)
def test_hooks_may_be_coroutines(pool: Pool, how: str, hooks: list[str]) -> None:
    result = pool.send("hooked", how)
    result.get(timeout=DEADLINE, propagate=False)
    # The last hook comes after the result is stored.
    wait_until(lambda: len(pool.call("logged", result.id)) >= len(hooks), lambda: pool.call("logged", result.id))
    # Sorted: the retry may begin before the hook of the first attempt.
    assert sorted(pool.call("logged", result.id)) == sorted(hooks)


def test_a_call_of_the_applications_own_is_kept(pool: Pool) -> None:
    assert pool.call("called", "text") == "<text>"


def test_pydantic_models_go_in_and_out(pool: Pool) -> None:
    assert pool.call("turned", {"number": 1}) == {"number": 2}


def test_a_task_tells_how_far_it_is(pool: Pool) -> None:
    release = pool.key()
    result = pool.send("progressed", release)
    wait_until(lambda: result.state == "PROGRESS" and result.info == {"done": 1}, lambda: result.state)
    pool.client.backend.client.set(release, 1)
    assert result.get(timeout=DEADLINE) == "done"


def test_a_result_may_be_ignored(pool: Pool) -> None:
    key = pool.key()
    result = pool.send("ignored", key)
    # The last hook comes after a result would be stored.
    wait_until(lambda: "after_return SUCCESS" in pool.call("logged", result.id), lambda: pool.call("logged", result.id))
    assert pool.call("logged", key) == ["ran"]
    assert result.state == "PENDING"


def test_class_based_shared_mixed_and_eager_tasks(pool: Pool) -> None:
    assert pool.call("pools_app.based", 1) == 2
    shared = pool.send("pools_app.shared")
    assert shared.get(timeout=DEADLINE) == shared.id
    assert pool.call("mixed") == "plain"
    assert pool.call("eager")["id"] == "within"


def test_names_are_resolved_and_threads_used(pool: Pool) -> None:
    assert pool.call("resolved") is True


def test_asyncio_run_still_works_beside_it(pool: Pool) -> None:
    held = pool.send("progressed", release := pool.key())
    if pool.name in GREEN:  # the loop waits at the same time, in the same thread
        wait_until(lambda: held.state == "PROGRESS")
    pool.client.backend.client.set(release, 1)
    assert pool.send("asyncio_run_beside").get(timeout=DEADLINE) >= 1


@pytest.mark.parametrize("task", ["meet", "meet_from_synchronous"])
def test_as_many_tasks_run_at_once_as_the_pool_has_slots(pool: Pool, task: str) -> None:
    key, number = pool.key(), SLOTS[pool.name]
    results = [pool.send(task, key, number) for _ in range(number)]
    assert {result.get(timeout=DEADLINE) for result in results} == {number}
    assert set(pool.sessions()) <= {"idle"}
    # A connection that the pool has closed is still there for a moment.
    wait_until(lambda: len(pool.sessions()) <= 5, pool.sessions)


def test_an_orphan_never_resumes_in_a_later_task(pool: Pool) -> None:
    key = pool.key()
    pool.call("leave_an_orphan", key)
    before, after = pool.call("what_the_orphan_did", key, 0.3)
    assert before == after
    assert before, "it ran while its task did"


@pytest.mark.parametrize("pool", GREEN, indirect=True)
def test_the_coroutine_of_a_greenlet_that_is_revoked_is_cancelled(pool: Pool) -> None:
    key = pool.key()
    result = pool.send("hold", key)
    wait_until(lambda: pool.client.backend.client.get(key))
    pool.client.control.revoke(result.id, terminate=True)
    _assert_cancelled(pool, key)


@pytest.mark.parametrize("pool", ["gevent"], indirect=True)  # eventlet's pool has no time limits
def test_the_coroutine_of_a_greenlet_whose_time_is_up_is_cancelled(pool: Pool) -> None:
    assert pool.call("query") == 1
    key = pool.key()
    pool.send("hold", key, time_limit=10)  # it holds long before
    wait_until(lambda: pool.client.backend.client.get(key))
    _assert_cancelled(pool, key)


def _assert_cancelled(pool: Pool, key: str) -> None:
    wait_until(lambda: pool.call("logged", key) == ["holds", "cancelled"], lambda: pool.call("logged", key))
    wait_until(lambda: set(pool.sessions()) <= {"idle"}, pool.sessions)
    assert pool.call("query") == 1


def test_the_worker_reports(pool: Pool) -> None:
    assert pool.call("query") == 1
    wait_until(
        lambda: pool.listener.sum(pool.worker.node, catalogue.ENGINES_CREATED, "main") == 1, lambda: pool.worker.log
    )
    info = pool.listener.snapshots[pool.worker.node]["info"]
    assert info["pool_type"] == pool.name
    assert info["slots"] == SLOTS[pool.name]


def test_the_end_of_the_worker_leaves_no_session(pool: Pool) -> None:
    assert pool.call("query") == 1
    assert pool.sessions()
    pool.worker.stop()
    assert pool.worker.process.returncode == 0
    wait_until(lambda: not pool.sessions(), pool.sessions)
    pool.listener.last(pool.worker.node)
    assert pool.listener.sum(pool.worker.node, catalogue.ENGINES_DISPOSED, "main", "process_exit") == 1
    for complaint in ("Exception in thread", "Exception ignored", "never awaited", "was destroyed", "never retrieved"):
        assert complaint not in pool.worker.log
