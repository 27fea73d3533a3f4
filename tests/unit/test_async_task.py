"""`AsyncTask` and `instrument` without a worker: eager calls and what is refused."""
# Celery is typed in parts, and its hooks are not made for coroutines.
# mypy: disable-error-code="untyped-decorator,override"

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery

import loopwatch
from loopwatch.errors import ConfigurationError, RunningLoopError
from loopwatch.runner import close_loops
from loopwatch.telemetry.stats import NO_TASK, TaskContext, current_task


@pytest.fixture
def app() -> Iterator[Any]:
    with Celery("app", broker="memory://", backend="cache+memory://", task_cls=loopwatch.AsyncTask) as app:
        app.conf.task_always_eager = True
        yield app
    close_loops()


def test_an_async_task_is_called_like_any_other(app: Celery) -> None:
    @app.task
    async def add(left: int, right: int = 1) -> int:
        await asyncio.sleep(0)
        return left + right

    assert add.delay(1, right=2).get() == 3
    assert add(4) == 5
    assert str(inspect.signature(add.run)) == "(left: 'int', right: 'int' = 1) -> 'int'"


@pytest.mark.parametrize("thread", [False, True])
def test_a_bound_task_sees_its_own_request(app: Celery, thread: bool) -> None:
    @app.task(bind=True)
    async def who(self: Any) -> tuple[str, str]:
        await asyncio.sleep(0.01)
        return self.request.id, threading.current_thread().name

    def call(number: int) -> tuple[str, str]:
        result: tuple[str, str] = who.apply(task_id=f"id-{number}").get()
        return result

    # Bound before the threads begin, as in a worker: Celery does that on first use, and not safely for several threads.
    assert who.request_stack is not None
    if thread:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(call, range(8)))
        assert {name for _, name in answers} == {"loopwatch-loop"}
    else:
        answers = [call(number) for number in range(8)]
    assert [identifier for identifier, _ in answers] == [f"id-{number}" for number in range(8)]
    assert who.request.id is None


def test_a_synchronous_task_is_left_alone(app: Celery) -> None:
    @app.task
    def plain() -> str:
        return threading.current_thread().name

    assert plain.delay().get() == threading.current_thread().name


def test_retries_and_autoretry_work(app: Celery) -> None:
    @app.task(bind=True, autoretry_for=(ValueError,), max_retries=2, retry_backoff=False, default_retry_delay=0)
    async def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise ValueError
        return int(self.request.retries)

    assert flaky.delay().get() == 2


def test_hooks_may_be_coroutine_functions(app: Celery) -> None:
    log: list[str] = []

    class Hooked(loopwatch.AsyncTask):
        abstract = True

        async def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            log.append(f"before {self.request.id == task_id}")

        async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            log.append(f"success {retval}")

        async def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            log.append(f"failure {exc}")

    @app.task(base=Hooked)
    async def work(fail: bool) -> int:
        if fail:
            raise ValueError("no")
        return 1

    work.delay(False).get()
    with pytest.raises(ValueError, match="no"):
        work.delay(True).get()
    assert log == ["before True", "success 1", "before True", "failure no"]


async def test_called_inside_a_loop_it_says_what_to_write(app: Celery) -> None:
    @app.task
    async def nothing() -> None: ...

    with pytest.raises(RunningLoopError, match="await"):
        nothing()


def test_instrumenting_twice_is_harmless_with_the_same_arguments_only(app: Celery) -> None:
    loopwatch.instrument(app, interval=2.0)
    loopwatch.instrument(app, interval=2.0)
    with pytest.raises(ConfigurationError, match="twice"):
        loopwatch.instrument(app, interval=3.0)


@pytest.mark.parametrize("interval", [0, -1, 10_000, float("nan")])
def test_an_impossible_interval_is_refused(app: Celery, interval: float) -> None:
    with pytest.raises(ConfigurationError, match="interval"):
        loopwatch.instrument(app, interval=interval)


def test_instrument_starts_nothing(app: Celery) -> None:
    before = threading.active_count()
    loopwatch.instrument(app)
    assert threading.active_count() == before


def test_the_current_task_is_told_and_nested_eager_tasks_keep_the_queue(app: Celery) -> None:
    loopwatch.instrument(app)

    seen: list[TaskContext] = []

    @app.task
    async def inner() -> None:
        seen.append(current_task.get())

    @app.task
    def outer() -> None:
        # As a worker does it: a message of the queue "celery".
        current_task.set(TaskContext("celery", "outer", "1"))
        inner.delay()

    outer.delay().get()
    assert [(context.queue_name, context.name) for context in seen] == [("celery", inner.name)]
    assert current_task.get() == NO_TASK
