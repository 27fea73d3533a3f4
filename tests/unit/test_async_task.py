"""`AsyncTask` and `instrument` without a worker: eager calls and what is refused."""
# Celery is typed in parts, and its hooks are not made for coroutines.
# mypy: disable-error-code="untyped-decorator,override,attr-defined"

from __future__ import annotations

import asyncio
import doctest
import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import celery.app.trace
import celery.concurrency
import pydantic
import pytest
from celery import Celery
from celery.app.registry import TaskRegistry

import loopwatch
from loopwatch.errors import ConfigurationError, RunningLoopError
from loopwatch.event_loops import use_event_loop
from loopwatch.runner import close_loops
from loopwatch.telemetry.stats import NO_TASK, TaskContext, current_task

# Celery offers each test's tasks to the applications of all the others.
pytestmark = pytest.mark.filterwarnings("ignore:Task name .* is already registered")


@pytest.fixture
def app() -> Iterator[Any]:
    with Celery("app", broker="memory://", backend="cache+memory://", task_cls=loopwatch.AsyncTask) as app:
        app.conf.task_always_eager = True
        yield app
    close_loops()


@pytest.mark.parametrize("module", ["celery.instrument", "celery.task", "green", "runner"])
def test_the_examples_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"loopwatch.{module}"))
    assert results.attempted
    assert not results.failed
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
    assert threading.active_count() <= before  # fewer, where a thread of an earlier test has ended meanwhile


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


class Model(pydantic.BaseModel):
    number: int


def test_pydantic_validates_and_dumps_around_the_coroutine(app: Celery) -> None:
    @app.task(pydantic=True, autoretry_for=(KeyError,))
    async def free(model: Model) -> Model:
        await asyncio.sleep(0)
        return Model(number=model.number + 1)

    @app.task(pydantic=True, bind=True)
    async def bound(self: Any, model: Model) -> Model:
        await asyncio.sleep(0)
        return Model(number=model.number + len(self.request.id))

    assert free.apply(({"number": 1},)).get() == {"number": 2}
    assert bound.apply(({"number": 1},), task_id="seven__").get() == {"number": 8}
    with pytest.raises(pydantic.ValidationError):
        free.apply(({"number": "one"},)).get()


# ---------------------------------------------------------------- tasks that nobody awaits
async def _coroutine_function() -> None: ...


def _decorated(app: Celery) -> None:
    app.task(name="unawaited")(_coroutine_function)


def _decorated_with_options(app: Celery) -> None:
    app.task(name="unawaited", autoretry_for=(ValueError,), pydantic=True, bind=False)(_coroutine_function)


def _explicit_base(app: Celery) -> None:
    app.task(name="unawaited", base=celery.Task)(_coroutine_function)


def _class_based(app: Celery) -> None:
    class Unawaited(celery.Task):  # type: ignore[type-arg]
        name = "unawaited"
        autoretry_for = (ValueError,)

        async def run(self) -> None: ...

    app.register_task(Unawaited())


def _shared(app: Celery) -> None:
    # Not `shared_task`, which would give the task to every application of this test process, for ever.
    app._task_from_fun(_coroutine_function, name="unawaited")


WAYS = [_decorated, _decorated_with_options, _explicit_base, _class_based, _shared]


@pytest.fixture
def plain_app() -> Iterator[Any]:
    with Celery("plain", broker="memory://", set_as_current=False) as app:
        yield app


@pytest.mark.parametrize("register", WAYS)
@pytest.mark.parametrize("lazily", [True, False])
@pytest.mark.parametrize("first", ["instrument", "register"])
def test_a_coroutine_function_that_nobody_awaits_is_refused(
    plain_app: Celery, register: Callable[[Celery], None], lazily: bool, first: str
) -> None:
    def act() -> None:
        if first == "instrument":
            loopwatch.instrument(plain_app)
        if not lazily:
            plain_app.finalize()
        register(plain_app)
        if first == "register":
            loopwatch.instrument(plain_app)
        plain_app.finalize()

    with pytest.raises(ConfigurationError, match=r"'unawaited'.*base=loopwatch\.AsyncTask.*task_cls=.*run_async"):
        act()
    if first == "instrument":
        assert "unawaited" not in plain_app.tasks


def test_tasks_that_are_awaited_are_accepted(plain_app: Celery) -> None:
    loopwatch.instrument(plain_app)

    class Awaiting(celery.Task):  # type: ignore[type-arg]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return loopwatch.run_async(super().__call__(*args, **kwargs))

    def runs_it(function: Callable[[], Any]) -> Callable[[], Any]:
        return functools.wraps(function)(lambda: loopwatch.run_async(function))

    plain_app.task(name="one", base=loopwatch.AsyncTask)(_coroutine_function)
    plain_app.task(name="two", base=Awaiting)(_coroutine_function)
    plain_app.task(name="three")(runs_it(_coroutine_function))
    plain_app.task(name="four", base=loopwatch.AsyncTask, pydantic=True, autoretry_for=(ValueError,))(
        _coroutine_function
    )
    plain_app.finalize()
    for name in ("one", "two", "three", "four"):
        assert plain_app.tasks[name].apply().get() is None
    close_loops()


def test_a_task_that_another_application_offers_is_not_taken(plain_app: Celery) -> None:
    loopwatch.instrument(plain_app)
    with Celery("other", broker="memory://", task_cls=loopwatch.AsyncTask, set_as_current=False) as other:
        other.task(name="offered")(_coroutine_function)
        plain_app.finalize()
        assert "offered" not in plain_app.tasks
        assert other.tasks["offered"].apply().get() is None
    close_loops()


def test_a_replaced_tracer_awaits(plain_app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """celery-aio-pool, and applications that do the same by hand."""
    original = celery.app.trace.build_tracer
    monkeypatch.setattr("celery.app.trace.build_tracer", lambda *args, **options: original(*args, **options))
    loopwatch.instrument(plain_app)
    _explicit_base(plain_app)
    plain_app.finalize()
    assert "unawaited" in plain_app.tasks


@pytest.mark.parametrize("custom", [True, False])
def test_a_pool_for_coroutines_awaits(plain_app: Celery, monkeypatch: pytest.MonkeyPatch, custom: bool) -> None:
    if custom:
        monkeypatch.setenv("CELERY_CUSTOM_WORKER_POOL", "celery_aio_pool.pool:AsyncIOPool")
    else:
        monkeypatch.setitem(celery.concurrency.ALIASES, "asyncio", "celery.concurrency.aio:TaskPool")
    loopwatch.instrument(plain_app)
    _explicit_base(plain_app)
    plain_app.finalize()
    assert "unawaited" in plain_app.tasks


def test_the_check_can_be_left_out(plain_app: Celery) -> None:
    loopwatch.instrument(plain_app, check_async_tasks=False)
    _explicit_base(plain_app)
    plain_app.finalize()
    assert "unawaited" in plain_app.tasks


def test_a_registry_of_the_applications_own_stays_what_it_is() -> None:
    class Registry(TaskRegistry):
        def names(self) -> set[str]:
            return set(self)

    registry = Registry()
    with Celery(
        "own",
        broker="memory://",
        tasks=registry,  # type: ignore[arg-type]
        set_as_current=False,
    ) as app:
        loopwatch.instrument(app)
        assert app.tasks is registry
        assert isinstance(registry, Registry)
        assert registry.names()
        with pytest.raises(ConfigurationError, match="unawaited"):
            _class_based(app)


# ---------------------------------------------------------------- event_loop=
def test_an_unknown_event_loop_is_refused(plain_app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="'asyncio', 'uvloop'"):
        loopwatch.instrument(plain_app, event_loop="trio")


def test_uvloop_missing_says_what_to_install(plain_app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ConfigurationError, match="pip install uvloop"):
        loopwatch.instrument(plain_app, event_loop="uvloop")


def test_uvloop_is_used_for_both_loops(plain_app: Celery) -> None:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    loopwatch.instrument(plain_app, event_loop="uvloop")
    try:
        assert loopwatch.run_async(kind) == loopwatch.run_async(kind, shared=True) == "uvloop"
        close_loops()
    finally:
        use_event_loop("asyncio")
    assert loopwatch.run_async(kind) == loopwatch.run_async(kind, shared=True) == "asyncio"
    close_loops()
