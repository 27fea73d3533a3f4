"""What is a loop conflict: an asyncio resource of one event loop (or process) that was used on another.

`classify` tells it from an exception with its whole chain, or from text alone (the ``exception`` or ``traceback`` of a
Celery event, which is all that is seen of an application without the library). `count_once` counts one conflict once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, cast, get_args

from loopwatch.conflict_patterns import AMBIGUOUS, DEFINITE, OWN, Kind, search
from loopwatch.errors import LoopConflictError
from loopwatch.redact import redact
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.conflict_reports import REPORTS
from loopwatch.telemetry.stats import STATS, current_task

__all__ = ["Conflict", "Kind", "Source", "classify", "count_once", "mark_counted"]

logger = logging.getLogger("loopwatch")

Source = Literal["guard", "exception"]

MESSAGE_LIMIT: Final = 600
"""Characters of a conflict's message; a longer one keeps its two ends."""

_DRIVERS: Final = {"asyncpg", "psycopg", "aiomysql", "asyncmy", "aiosqlite"}
"""SQLAlchemy's; each is also used on its own."""

_RESOURCES: Final = {
    "sqlalchemy": "sqlalchemy",
    **{name: name for name in _DRIVERS},
    **{name: name for name in ("redis", "httpx", "aiohttp", "grpc")},
    **dict.fromkeys(("httpx2", "httpcore", "httpcore2", "openai", "anthropic"), "httpx"),
}
"""The root package of a module or file to the resource that it is reported as."""

_HINTS: Final = (
    ("sqlalchemy.", "sqlalchemy"),
    ("asyncpg", "asyncpg"),
    # asyncpg's futures carry this callback, and only its connections have `transaction()`.
    ("BaseProtocol._on_waiter_completed", "asyncpg"),
    ("Connection.transaction()", "asyncpg"),
    ("redis.", "redis"),
    ("httpx", "httpx"),
    ("aiohttp.", "aiohttp"),
    ("grpc.", "grpc"),
    # What the others raise of their own locks names them before; a queue's repr names no module.
    ("is bound to a different event loop", "asyncio"),
)
"""What a message itself may tell of the resource."""

_FILE = re.compile(r'File "([^"\n]{1,500})", line')
_INSTALLED = re.compile(r"^.*(?:site|dist)-packages/|^.*/lib(?:64)?/python3[.\d]*t?/")


@dataclass(frozen=True, slots=True)
class Conflict:
    """One loop conflict.

    >>> classify(RuntimeError("Event loop is closed"))
    Conflict(kind='closed_loop', resource='unknown', message='Event loop is closed')

    Attributes:
        kind: ``cross_loop`` (the owner's loop is another one), ``closed_loop`` (it is closed), ``fork_shared`` (a
            connection that the parent process opened).
        resource: ``sqlalchemy`` or one of its drivers alone (``asyncpg``, ``psycopg``, ``aiomysql``, ``asyncmy``,
            ``aiosqlite``), ``redis``, ``httpx``, ``aiohttp``, ``grpc``, ``asyncio``, ``unknown``.
        message: the line that says so, shortened, without the credentials of a URL in it.
    """

    kind: Kind
    resource: str
    message: str


def classify(error: BaseException | str) -> Conflict | None:
    """The loop conflict that an error is or was caused by, or ``None``.

    >>> classify(RuntimeError("Task <Task> got Future <Future> attached to a different loop")).kind
    'cross_loop'
    >>> classify(RuntimeError("no running event loop")) is None
    True

    An exception is searched with its ``__cause__``, ``__context__`` and group members, the outermost first; a text by
    its unindented lines, the last first. Where both of an event's texts are at hand, ask for the traceback first: only
    it tells the resource, and a cause that the outer exception's text does not mention. Never raises.

    >>> conflict = classify("redis.exceptions.ConnectionError: Event loop is closed")
    >>> conflict.kind, conflict.resource
    ('closed_loop', 'redis')
    >>> classify(ConnectionError("No connection available."))
    """
    if isinstance(error, str):
        return _classify_text(error)
    found = _find(error)
    return found[0] if found else None


def count_once(error: BaseException, *, source: Source, handled: BaseException | None = None) -> Conflict | None:
    """Classifies ``error`` and counts its conflict for the running task, unless it was counted before. Never raises.
    The first of its kind is reported whole (`loopwatch.telemetry.conflict_reports`).

    The mark that says "counted" is on the exception that holds the conflict and on its explicit causes, not on its
    context: a notification that conflicts while a task's own conflict is handled has that one as its context, and
    they are two. ``handled``: what was being handled when the operation began; what lies behind it is not its own.
    """
    try:
        found = _find(error, handled)
        if found is None:
            return None
        conflict, holder = found
        if _mark(holder):
            task = current_task.get()
            labels = (task.queue_name, task.name, conflict.resource, conflict.kind, source)
            STATS.count(catalogue.LOOP_CONFLICTS, labels)
            REPORTS.note(conflict.kind, conflict.resource, source, conflict.message, holder, error)
    except Exception:
        # Monitoring is silent towards the task (the third layer of failure).
        logger.debug("a loop conflict could not be counted", exc_info=True)
        return None
    return conflict


def mark_counted(error: BaseException) -> None:
    """Marks the conflict that ``error`` is or was caused by, if any, as counted: a guard saw it come. Never raises."""
    try:
        found = _find(error)
        if found is not None:
            _mark(found[1])
    except Exception:
        logger.debug("a loop conflict could not be marked", exc_info=True)


def _mark(holder: BaseException) -> bool:
    """Marks the exception and its causes; false when one of them was marked before."""
    fresh = True
    for error in _follow(holder, ("__cause__",)):
        fresh = fresh and not getattr(error, "_loopwatch_counted", False)
        # One that refuses attributes is counted each time, which is better than not at all.
        with suppress(AttributeError, TypeError):
            error._loopwatch_counted = True  # type: ignore[attr-defined]
    return fresh


# ---------------------------------------------------------------- exceptions
def _find(error: BaseException, handled: BaseException | None = None) -> tuple[Conflict, BaseException] | None:
    """The conflict and the exception in the chain that holds it."""
    # `exc`: Celery's Retry keeps there what it retries for.
    chain = list(_follow(error, ("__cause__", "__context__", "exc"), handled))
    for one in chain:
        if isinstance(one, LoopConflictError):
            kind = cast(Kind, one.kind if one.kind in get_args(Kind) else "cross_loop")
            return Conflict(kind, one.resource, _shorten(_text(one))), one
    texts = [(one, _text(one)) for one in chain if not _quotes(one)]
    for patterns in (DEFINITE, AMBIGUOUS):
        for one, text in texts:
            match = search(text, patterns)
            if match:
                kind, line = match
                return Conflict(kind, _resource_of(one, chain, line), _shorten(line)), one
    return None


def _follow(
    error: BaseException, attributes: Sequence[str], without: BaseException | None = None
) -> Iterator[BaseException]:
    """``error`` and what it leads to, breadth first, so outermost first; each once, as chains may be circular."""
    queue = [error]
    seen = {id(error), id(without)}
    for one in queue:
        yield one
        members = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        for other in (*(_attribute(one, attribute) for attribute in attributes), *members):
            if isinstance(other, BaseException) and id(other) not in seen:
                seen.add(id(other))
                queue.append(other)


def _quotes(error: BaseException) -> bool:
    """Whether it is a Retry, whose text repeats its reason's: that one, marked or not, is what holds the conflict."""
    return isinstance(_attribute(error, "exc"), BaseException)


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except Exception:
        logger.debug("%s.%s cannot be read", type(error).__name__, name, exc_info=True)
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        logger.debug("%s has no text", type(error).__name__, exc_info=True)
        return ""


def _resource_of(holder: BaseException, chain: Sequence[BaseException], line: str) -> str:
    roots = [root for one in (holder, *chain) for root in _roots_of(one.__traceback__)]
    modules = [_root(type(one).__module__, ".") for one in chain]
    return _resource(roots, modules, line)


def _roots_of(traceback: TracebackType | None) -> list[str]:
    """The root packages of the frames, innermost first."""
    roots = []
    while traceback is not None:
        roots.append(_root(str(traceback.tb_frame.f_globals.get("__name__", "")), "."))
        traceback = traceback.tb_next
    return roots[::-1]


def _root(path: str, separator: str) -> str:
    """The root package; ``""`` for aiohttp's server, beneath which everything in an API runs."""
    root, _, rest = path.partition(separator)
    return "" if root == "aiohttp" and rest.startswith("web") else root


def _resource(roots: Sequence[str], modules: Sequence[str], line: str) -> str:
    known = [_RESOURCES[root] for root in (*roots, *modules) if root in _RESOURCES]
    if known:
        # The innermost library, except that it is SQLAlchemy's driver where both are seen.
        return "sqlalchemy" if known[0] in _DRIVERS and "sqlalchemy" in known else known[0]
    if roots and roots[0] in ("asyncio", "uvloop"):
        return "asyncio"
    return next((resource for hint, resource in _HINTS if hint in line), "unknown")


# ---------------------------------------------------------------- text
def _classify_text(text: str) -> Conflict | None:
    for patterns in (OWN, DEFINITE, AMBIGUOUS):
        match = search(text, patterns)
        if match:
            kind, line = match
            return Conflict(kind, _resource(*_roots_in(text, line)), _shorten(line))
    return None


def _roots_in(text: str, line: str) -> tuple[list[str], list[str], str]:
    """The root packages of a traceback's files, the one next above ``line`` first; the arguments of `_resource`."""
    split = text.rfind(line)
    above, below = _files(text[: max(split, 0)]), _files(text[max(split, 0) :])
    return [*above[::-1], *below], [_root(line, ".")], line


def _files(text: str) -> list[str]:
    return [_root(_INSTALLED.sub("", path), "/") for path in _FILE.findall(text.replace("\\\\", "/"))]


def _shorten(line: str) -> str:
    # First without credentials: a cut may go through the middle of them.
    line = redact(line)
    half = MESSAGE_LIMIT // 2
    return line if len(line) <= MESSAGE_LIMIT else f"{line[: half - 5]} [...] {line[-half + 2 :]}"
