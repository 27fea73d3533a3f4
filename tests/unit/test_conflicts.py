"""The classifier: the whole table of measured failures, what must not match, chains, texts of events, and counting."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter
from typing import Any

import pytest
from celery.exceptions import Retry
from celery.utils.serialization import UnpickleableExceptionWrapper, get_pickleable_exception

from loopwatch import conflict_patterns, conflicts
from loopwatch.conflicts import MESSAGE_LIMIT, Conflict, classify, count_once
from loopwatch.errors import LoopConflictError
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task

ADL = (
    "Task <Task pending name='Task-5' coro=<main() running at /app/main.py:7>> got Future <Future pending "
    "cb=[BaseProtocol._on_waiter_completed()]> attached to a different loop"
)
UVLOOP = "unable to perform operation on <TCPTransport closed=True reading=False 0x5581>; the handler is closed"
STATEMENT = 'prepared statement "__asyncpg_stmt_6__" already exists'
LATER: Any = 180  # typed as numbers.Real, which is nobody's
SQL = "\n[SQL: INSERT INTO t\nVALUES (1)]\n[parameters: ()]\n(Background on this error at: https://sqlalche.me/e/20/x)"

TABLE = [
    (RuntimeError, ADL, "cross_loop"),
    (RuntimeError, "<asyncio.locks.Event object at 0x7f [unset]> is bound to a different event loop", "cross_loop"),
    (RuntimeError, "<Queue at 0x7f maxsize=5 _getters[1]> is bound to a different event loop", "cross_loop"),
    (
        ValueError,
        "The future belongs to a different loop than the one specified as the loop argument",
        "cross_loop",
    ),
    (
        RuntimeError,
        "Non-thread-safe operation invoked on an event loop other than the current one",
        "cross_loop",
    ),
    (RuntimeError, "Event loop is closed", "closed_loop"),
    (RuntimeError, UVLOOP, "closed_loop"),
    (RuntimeError, UVLOOP.replace("TCP", "Unix"), "closed_loop"),
    # redis-py wraps what goes wrong while it connects.
    (ConnectionError, "Event loop is closed", "closed_loop"),
    (Exception, "cannot use Connection.transaction() in a manually started transaction", "fork_shared"),
    (Exception, STATEMENT, "fork_shared"),
    # asyncpg numbers its statements in hexadecimal.
    (Exception, STATEMENT.replace("6", "1a"), "fork_shared"),
    (
        Exception,
        "(sqlalchemy.dialects.postgresql.asyncpg.InterfaceError) <class 'asyncpg.exceptions._base.InterfaceError'>: "
        "cannot use Connection.transaction() in a manually started transaction" + SQL,
        "fork_shared",
    ),
    # SQLAlchemy 2.1 leaves the driver's class out.
    (
        Exception,
        "(sqlalchemy.dialects.postgresql.asyncpg.InterfaceError) "
        "cannot use Connection.transaction() in a manually started transaction" + SQL,
        "fork_shared",
    ),
    (Exception, f"(sqlalchemy.dialects.postgresql.asyncpg.ProgrammingError) {STATEMENT}{SQL}", "fork_shared"),
]

AFTERMATH = [
    "cannot perform operation: another operation is in progress",
    "readuntil() called while another coroutine is already waiting for incoming data",
    "Timeout context manager should be used inside a task",
    "await wasn't used with future",
]

NOT_OURS = [
    *AFTERMATH,
    "This event loop is already running",
    "Cannot run the event loop while another loop is running",
    "asyncio.run() cannot be called from a running event loop",
    "no running event loop",
    "There is no current event loop in thread 'MainThread'.",
    "Event loop stopped before Future completed.",
    "Session is closed",
    "Cannot send a request, as the client has been closed.",
    "pool is closed",
    "connection is closed",
    "connection was closed in the middle of operation",
    "QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00",
    "No connection available.",
    "Too many connections",
    "greenlet_spawn has not been called; can't call await_only() here. Was IO attempted in an unexpected place?",
    "",
    "None",
]


@pytest.mark.parametrize(("error_type", "message", "kind"), TABLE)
def test_every_row_of_the_table(error_type: type[Exception], message: str, kind: str) -> None:
    for seen in (error_type(message), message, repr(error_type(message)), f"{error_type.__name__}: {message}"):
        conflict = classify(seen)
        assert conflict is not None, seen
        assert conflict.kind == kind
        assert len(conflict.message) <= MESSAGE_LIMIT


@pytest.mark.parametrize(
    ("table", "index"),
    [(table, index) for table in ("DEFINITE", "AMBIGUOUS") for index in range(len(getattr(conflict_patterns, table)))],
)
def test_no_row_does_anothers_work(monkeypatch: pytest.MonkeyPatch, table: str, index: int) -> None:
    """Taken out, some message of `TABLE` is no longer told: so each row is tested."""
    rows = list(getattr(conflicts, table))
    del rows[index]
    monkeypatch.setattr(conflicts, table, rows)
    assert any(classify(message) is None for _, message, _ in TABLE)


@pytest.mark.parametrize("index", range(len(conflict_patterns.OWN)))
def test_no_row_of_our_own_error_does_anothers_work(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    texts = []
    for kind, word in (("fork_shared", "by the parent of a fork"), ("closed_loop", "closed"), ("cross_loop", "x")):
        error = LoopConflictError(f"refused: {word}", resource="redis", kind=kind)
        texts += [(kind, repr(error)), (kind, _traceback_of(error))]
    for kind, text in texts:
        assert (found := classify(text)) is not None
        assert found.kind == kind
    rows = list(conflict_patterns.OWN)
    del rows[index]
    monkeypatch.setattr(conflicts, "OWN", rows)
    told = [(found.kind if (found := classify(text)) else None) == kind for kind, text in texts]
    assert not all(told)


@pytest.mark.parametrize("message", NOT_OURS)
def test_what_must_not_match(message: str) -> None:
    error = RuntimeError(message)
    assert classify(error) is None
    assert classify(message) is None
    assert classify(repr(error)) is None
    assert classify(_traceback_of(error)) is None


@pytest.mark.parametrize("message", AFTERMATH)
def test_an_aftermath_is_its_cause_s_conflict(message: str) -> None:
    error = RuntimeError(message)
    error.__context__ = RuntimeError(ADL)
    assert (conflict := classify(error)) is not None
    assert conflict.kind == "cross_loop"
    assert (conflict := classify(_traceback_of(error))) is not None
    assert conflict.kind == "cross_loop"


@pytest.mark.parametrize(
    "text",
    [
        repr(RuntimeError(STATEMENT + " isn't it")),  # both kinds of quote: escaped
        str([repr(RuntimeError(STATEMENT))]),
        "Retry(\"Retry in 180s: RuntimeError('Event loop is closed')\", RuntimeError('Event loop is closed'), 180)",
        'TaskError(\'step failed:\\nTraceback (most recent call last):\\n  File "a.py"\\nRuntimeError: ' + ADL + "')",
    ],
)
def test_reprs_of_events(text: str) -> None:
    assert classify(text) is not None


def test_a_traceback_says_the_cause_that_its_last_line_does_not() -> None:
    text = _traceback_of(_raised_from(ConnectionError("Connection error."), RuntimeError("Event loop is closed")))
    assert text.rstrip().endswith("ConnectionError: Connection error.")
    assert classify(text) == Conflict("closed_loop", "unknown", "RuntimeError: Event loop is closed")


def test_source_code_in_a_traceback_is_not_a_message() -> None:
    try:
        raise ValueError("no")  # Event loop is closed: this line is in the traceback
    except ValueError as error:
        text = _traceback_of(error)
    assert "Event loop is closed" in text
    assert classify(text) is None


def test_what_sqlalchemy_quotes_is_not_a_message() -> None:
    quoted = (
        "IntegrityError: duplicate key value violates unique constraint\nDETAIL:  Key (error)=(Event loop is closed)\n"
        "[SQL: UPDATE tasks\nSET error='Event loop is closed'\n\nWHERE id = 1]\n"
        "[parameters: ('RuntimeError: Event loop is closed', 1)]\n(Background on this error at: https://sqlalche.me)"
    )
    assert classify(quoted) is None
    assert classify(Exception(quoted)) is None
    assert classify(repr(Exception(quoted))) is None
    stored = "Traceback (most recent call last):\n  File 'a.py'\nRuntimeError: Event loop is closed"
    failed = f"DataError: too long\n[SQL: UPDATE tasks]\n[parameters: ({(stored + stored)!r},)]"
    assert classify(failed) is None
    assert classify(repr(Exception(failed))) is None
    assert classify(f"{quoted}\n\nTraceback (most recent call last):\n  ...\nRuntimeError: {ADL}") is not None


def test_groups() -> None:
    group = ExceptionGroup("two", [ValueError("no"), ExceptionGroup("deeper", [RuntimeError("Event loop is closed")])])
    assert (conflict := classify(group)) is not None
    assert conflict.kind == "closed_loop"
    try:
        raise group
    except ExceptionGroup:
        raised = traceback.format_exc()
    for text in (raised, _traceback_of(ExceptionGroup("one", [RuntimeError("Event loop is closed")]))):
        assert (conflict := classify(text)) is not None
        assert conflict.message == "RuntimeError: Event loop is closed"
    assert classify(_traceback_of(ExceptionGroup("one", [ValueError("no")]))) is None


def test_the_outermost_conflict_is_the_one() -> None:
    error = _raised_from(RuntimeError("Event loop is closed"), RuntimeError(ADL))
    assert (conflict := classify(error)) is not None
    assert conflict.kind == "closed_loop"
    assert (conflict := classify(_traceback_of(error))) is not None
    assert conflict.kind == "closed_loop"


def test_a_definite_conflict_wins_over_an_ambiguous_one_outside() -> None:
    error = _raised_from(RuntimeError(STATEMENT), RuntimeError(ADL))
    assert (conflict := classify(error)) is not None
    assert conflict.kind == "cross_loop"


def test_a_circular_chain_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    first.__context__ = ExceptionGroup("group", [first, second])
    assert classify(first) is None
    second.__context__ = RuntimeError("Event loop is closed")
    assert classify(first) is not None


def test_a_chain_of_thousands() -> None:
    error: BaseException = RuntimeError("Event loop is closed")
    for _ in range(5000):
        outer = ValueError("again")
        outer.__context__ = error
        error = outer
    assert classify(error) is not None


def test_an_exception_without_a_text() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise TypeError("no text")

    assert classify(MuteError()) is None
    assert classify(_raised_from(MuteError(), RuntimeError(ADL))) is not None


@pytest.mark.parametrize(
    ("text", "resource"),
    [
        (f"RuntimeError: {ADL}", "asyncpg"),
        ("<asyncio.locks.Lock object at 0x7f> is bound to a different event loop", "asyncio"),
        ("redis.exceptions.ConnectionError: Event loop is closed", "redis"),
        ("<Queue at 0x7f maxsize=5 _getters[1]> is bound to a different event loop", "asyncio"),
        ("httpx.ConnectError: Event loop is closed", "httpx"),
        ("openai.APIConnectionError: Event loop is closed", "httpx"),
        ("aiohttp.client_exceptions.ClientError: Event loop is closed", "aiohttp"),
        ("grpc.aio.UsageError: Event loop is closed", "grpc"),
        (f"grpc.aio._call.AioRpcError: {ADL.replace('BaseProtocol._on_waiter_completed()', 'x')}", "grpc"),
        ("X: cannot use Connection.transaction() in a manually started transaction", "asyncpg"),
        ("E: (redis.exceptions.ConnectionError) Event loop is closed", "redis"),
        ("E: (sqlalchemy.exc.DBAPIError) Event loop is closed", "sqlalchemy"),
        ("E: (aiohttp.ClientError) Event loop is closed", "aiohttp"),
        ("E: (grpc.RpcError) Event loop is closed", "grpc"),
        (f"E: (asyncpg.exceptions.DuplicatePreparedStatementError) {STATEMENT}", "asyncpg"),
        ("E: (httpx.ConnectError) Event loop is closed", "httpx"),
        ("Event loop is closed", "unknown"),
        (f"asyncpg.exceptions.DuplicatePreparedStatementError: {STATEMENT}", "asyncpg"),
        (f"sqlalchemy.exc.ProgrammingError: (sqlalchemy.dialects.postgresql.asyncpg.X) {STATEMENT}", "sqlalchemy"),
    ],
)
def test_the_resource_by_the_message(text: str, resource: str) -> None:
    assert (conflict := classify(text)) is not None
    assert conflict.resource == resource


@pytest.mark.parametrize(
    ("files", "resource"),
    [
        (["/app/tasks.py", "/venv/lib/python3.11/site-packages/redis/asyncio/client.py"], "redis"),
        (
            [
                "/venv/lib/python3.11/site-packages/aiohttp/web_app.py",
                "/usr/lib/python3.11/asyncio/locks.py",
            ],
            "asyncio",
        ),
        (
            [
                "/app/tasks.py",
                "/usr/lib/python3/dist-packages/sqlalchemy/engine/base.py",
                "asyncpg/protocol/protocol.pyx",
            ],
            "sqlalchemy",
        ),
        (["/app/tasks.py", "asyncpg/protocol/protocol.pyx"], "asyncpg"),
        (["/v/site-packages/openai/_base_client.py", "/v/site-packages/httpcore/_async/http11.py"], "httpx"),
        (["/v/site-packages/grpc/aio/_call.py", "/usr/lib/python3.12/asyncio/base_events.py"], "grpc"),
        (["/v/site-packages/aiohttp/client.py", "/usr/lib/python3.12/asyncio/base_events.py"], "aiohttp"),
        (["/app/redis/tasks.py"], "unknown"),
    ],
)
def test_the_resource_by_a_traceback_s_files(files: list[str], resource: str) -> None:
    frames = "".join(f'  File "{path}", line 3, in f\n    await g()\n' for path in files)
    text = f"Traceback (most recent call last):\n{frames}RuntimeError: Event loop is closed\n"
    assert (conflict := classify(text)) is not None
    assert conflict.resource == resource


@pytest.mark.parametrize(("hint", "resource"), conflicts._HINTS)
def test_every_hint_tells_its_resource(hint: str, resource: str) -> None:
    conflict = classify(f"Error: {hint} Event loop is closed")
    assert conflict is not None
    assert conflict.resource == resource


@pytest.mark.parametrize(
    ("package", "resource"),
    [
        *[(name, name) for name in ("sqlalchemy", "asyncpg", "redis", "httpx", "aiohttp", "grpc")],
        *[(name, "httpx") for name in ("httpx2", "httpcore", "httpcore2", "openai", "anthropic")],
    ],
)
def test_every_package_is_known_by_its_files_its_frames_and_its_errors(package: str, resource: str) -> None:
    text = f'Traceback\n  File "/v/lib/python3.12/site-packages/{package}/x.py", line 3, in f\nE: Event loop is closed'
    assert (conflict := classify(text)) is not None
    assert conflict.resource == resource
    with pytest.raises(RuntimeError) as raised:
        exec("raise RuntimeError('Event loop is closed')", {"__name__": f"{package}.client"})
    assert (conflict := classify(raised.value)) is not None
    assert conflict.resource == resource
    theirs = type("TheirError", (Exception,), {"__module__": f"{package}.errors"})
    assert (conflict := classify(theirs("Event loop is closed"))) is not None
    assert conflict.resource == resource


def test_an_error_of_ours() -> None:
    error = LoopConflictError("refused: its loop is closed", resource="redis", kind="closed_loop")
    assert classify(error) == Conflict("closed_loop", "redis", "refused: its loop is closed")
    assert classify(_raised_from(ValueError("no"), error)) == classify(error)
    for text in (repr(error), _traceback_of(error)):
        assert (conflict := classify(text)) is not None
        assert conflict.kind == "closed_loop"
    assert classify(NameError("name 'LoopConflictError' is not defined")) is None


@pytest.mark.parametrize("size", [200_000, 5_000_000])
@pytest.mark.parametrize(
    "filler",
    ["x", "got Future ", "\n", "\\", '\\"', " attached to", 'File "', "unable to perform operation on <", "[SQL: \n"],
)
def test_huge_texts_take_linear_time(size: int, filler: str) -> None:
    text = filler * (size // len(filler))
    started = perf_counter()
    assert classify(text) is None
    assert classify(f"{text}\n(Background on this error\nRuntimeError: Event loop is closed") is not None
    # Not a measurement: quadratic time would be minutes or hours here.
    assert perf_counter() - started < 30


def test_a_long_message_keeps_its_two_ends() -> None:
    conflict = classify(ADL.replace("/app", "/app" * 1000))
    assert conflict is not None
    assert len(conflict.message) <= MESSAGE_LIMIT
    assert conflict.message.startswith("Task <Task pending")
    assert conflict.message.endswith("attached to a different loop")


# ---------------------------------------------------------------- counting
@pytest.fixture
def counted() -> Iterator[tuple[str, ...]]:
    STATS.reset()
    token = current_task.set(TaskContext("logs", "app.store"))
    yield ("logs", "app.store", "unknown", "closed_loop", "exception")
    current_task.reset(token)
    STATS.reset()


def test_a_conflict_is_counted_once_however_it_is_passed_on(counted: tuple[str, ...]) -> None:
    error = RuntimeError("Event loop is closed")
    wrapped = _raised_from(ConnectionError("notify: Event loop is closed"), error)
    assert count_once(error, source="exception") == count_once(error, source="exception")
    assert count_once(wrapped, source="exception") is not None
    assert STATS.value(catalogue.LOOP_CONFLICTS, counted) == 1


def test_the_wrapper_first_and_then_the_cause(counted: tuple[str, ...]) -> None:
    error = RuntimeError("Event loop is closed")
    count_once(_raised_from(ConnectionError("notify: Event loop is closed"), error), source="exception")
    count_once(error, source="exception")
    assert STATS.value(catalogue.LOOP_CONFLICTS, counted) == 1


def test_a_conflict_while_another_one_is_handled_is_a_second_one(counted: tuple[str, ...]) -> None:
    first, second = RuntimeError("Event loop is closed"), RuntimeError("Event loop is closed")
    second.__context__ = first
    count_once(second, source="exception")
    count_once(first, source="exception")
    assert STATS.value(catalogue.LOOP_CONFLICTS, counted) == 2


def test_what_was_handled_before_is_not_this_error_s_conflict(counted: tuple[str, ...]) -> None:
    error, handled = ValueError("no"), RuntimeError("Event loop is closed")
    error.__context__ = handled
    assert count_once(error, source="exception", handled=handled) is None
    assert STATS.value(catalogue.LOOP_CONFLICTS, counted) == 0


def test_no_conflict_counts_nothing(counted: tuple[str, ...]) -> None:
    assert count_once(ValueError("no"), source="exception") is None
    assert catalogue.LOOP_CONFLICTS.wire_name not in STATS.counters()


def test_an_exception_that_takes_no_mark_is_counted(counted: tuple[str, ...]) -> None:
    class FrozenError(RuntimeError):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    assert count_once(FrozenError("Event loop is closed"), source="exception") is not None
    assert STATS.value(catalogue.LOOP_CONFLICTS, counted) == 1


# ---------------------------------------------------------------- what Celery makes of an exception
class _UnpickleableError(Exception):
    def __reduce__(self) -> str:
        raise TypeError("no")


def _retried(error: Exception) -> Retry:
    """As `self.retry(exc=error)` in an ``except`` raises it."""
    try:
        try:
            raise error
        except (RuntimeError, _UnpickleableError) as reason:
            raise Retry(exc=reason, when=LATER)  # noqa: B904  # as Celery does
    except Retry as retry:
        return retry


@pytest.mark.parametrize("kind", [RuntimeError, _UnpickleableError])
def test_a_conflict_that_was_counted_and_is_retried_is_one(counted: tuple[str, ...], kind: type[Exception]) -> None:
    """The Retry's text quotes it, and what cannot be pickled is in it as a copy without a mark."""
    error = kind("Event loop is closed")
    count_once(error, source="exception")
    conflict = count_once(_retried(error), source="exception")
    assert conflict == Conflict("closed_loop", "unknown", "Event loop is closed")
    assert STATS.value(catalogue.LOOP_CONFLICTS, counted) == 1


def test_a_retry_alone_tells_its_reason() -> None:
    retry = Retry(exc=RuntimeError("Event loop is closed"), when=LATER)  # as it is after pickling: no context
    assert (conflict := classify(retry)) is not None
    assert conflict.message == "Event loop is closed"
    assert classify(Retry(exc=ValueError("no"), when=LATER)) is None
    assert classify(Retry("Event loop is closed")) is not None  # a text of its own


def test_what_celery_makes_of_an_exception_that_cannot_be_pickled() -> None:
    wrapped = get_pickleable_exception(_UnpickleableError("Event loop is closed"))
    assert isinstance(wrapped, UnpickleableExceptionWrapper)
    for seen in (wrapped, repr(wrapped), str(wrapped), f"celery.x.UnpickleableExceptionWrapper: {wrapped}"):
        assert (conflict := classify(seen)) is not None
        assert conflict.kind == "closed_loop"
    # Its chain is lost; the traceback of the event tells it.
    error: Any = _raised_from(_UnpickleableError("no"), RuntimeError(ADL))
    assert classify(get_pickleable_exception(error)) is None
    assert classify(_traceback_of(error)) is not None


@pytest.mark.parametrize("kind", [RuntimeError, partial(LoopConflictError, resource="redis", kind="closed_loop")])
def test_a_mark_survives_pickling(counted: tuple[str, ...], kind: Callable[[str], Exception]) -> None:
    """From the child to the parent, where Celery's signals may meet it again."""
    error = kind("Event loop is closed")
    count_once(error, source="exception")
    before = STATS.counters()[catalogue.LOOP_CONFLICTS.wire_name]
    count_once(pickle.loads(pickle.dumps(error)), source="exception")
    assert STATS.counters()[catalogue.LOOP_CONFLICTS.wire_name] == before


def _traceback_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error
