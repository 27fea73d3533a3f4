"""`PerLoop`: one value for each live event loop, made on first use and disposed of with its loop.

How a value ends (measured and explained in the documentation of failures; each case is a test):

- `asyncio.run`, `asyncio.Runner`, `uvloop.run`: an async generator that was started on the loop is finalised by
  ``loop.shutdown_asyncgens()``; its ``finally`` disposes of the value while the loop still runs.
- a bare ``loop.close()``: nothing runs. The entries of closed loops are swept whenever a new loop asks for a value;
  their sockets are closed directly.
- a fork: the child inherits clients whose sockets are the parent's. They are neutralised, kept (a finaliser must not
  speak on them either) and forgotten; those of a factory that is under way, too.

The registry is a plain dictionary keyed by the loop object. ``id(loop)`` is reused after a loop is gone, and a
``WeakKeyDictionary`` never frees here, because the value refers to its loop. There is no lock: an entry is only made
on its own loop's thread, and dictionary operations are atomic. So no fork can leave one locked either.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import weakref
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar, cast, overload

from loopwatch.loop_end import dispose_of, is_ending, lasting, lastingly, note_ending, retrieve, start
from loopwatch.reach import sockets_of
from loopwatch.redact import redact
from loopwatch.sockets import SocketHandle, close_all, neutralise
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, Gauge, hold_weakly

__all__ = ["PerLoop", "add_holder", "is_ending", "lasting", "process_exits", "sweep"]

logger = logging.getLogger("loopwatch")

T = TypeVar("T")
Reason = Literal["loop_end", "loop_closed", "fork", "explicit", "process_exit"]


class _Entry(Generic[T]):
    """One loop's value, and the generator that disposes of it."""

    __slots__ = ("__weakref__", "guard", "making", "value")

    def __init__(self) -> None:
        self.value: T = cast(T, _MISSING)
        self.making: asyncio.Task[T] | None = None
        self.guard: AsyncGenerator[None, None] | None = None


_MISSING: Any = object()
_instances: weakref.WeakValueDictionary[int, PerLoop[Any]] = weakref.WeakValueDictionary()
"""By their ``id``. Not a `WeakSet`, which cannot be gone through while another thread adds to it."""
_graveyard: list[object] = []
"""What was inherited by a fork: never used, never finalised (asyncpg's ``__del__`` would end the parent's session)."""
_process_exits = False

Holder = Callable[[], Iterable[tuple[str, AbstractEventLoop]]]
_holders: list[Callable[[], Holder | None]] = []


class PerLoop(Generic[T]):
    """One value of type ``T`` for each event loop.

    >>> import asyncio
    >>> queues = PerLoop(asyncio.Queue, name="queues")
    >>> async def same():
    ...     return queues.get() is queues.get()
    >>> asyncio.run(same()), asyncio.run(same()), len(queues)
    (True, True, 0)

    Args:
        factory: makes a loop's value; called on that loop, without arguments, once however many tasks ask. What it
            raises goes to those who asked and is not kept. A factory that returns an awaitable needs `aget`. What has
            to be entered is entered by the factory and left by ``dispose``:
            ``PerLoop(lambda: thing().__aenter__(), dispose=lambda it: it.__aexit__(None, None, None))``.
        dispose: ends a value, on its loop; its result is awaited when it is awaitable, for 5 seconds at most. When it
            fails, the value's sockets are closed once the loop is.
        name: the label ``pool`` of ``loopwatch_engines`` and its kin; by default the factory's name.
        sockets: the sockets beneath a value, to be neutralised after a fork and closed when the loop was closed
            without disposal. By default those of the asyncio or uvloop transports that the value refers to, which is
            right for aiohttp, asyncpg, Redis Cluster and all others that connect by the loop's own means; a client
            that holds bare sockets needs this argument.

    Raises:
        TypeError: the factory or ``dispose`` is no function; the message says what to write.
    """

    # `dispose` takes Any: with T, mypy makes `PerLoop[Any]` of an asynchronous factory beside a lambda.
    @overload
    def __init__(
        self,
        factory: Callable[[], Coroutine[Any, Any, T]],
        *,
        dispose: Callable[[Any], object] | None = None,
        name: str | None = None,
        sockets: Callable[[T], Iterable[SocketHandle]] | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        *,
        dispose: Callable[[Any], object] | None = None,
        name: str | None = None,
        sockets: Callable[[T], Iterable[SocketHandle]] | None = None,
    ) -> None: ...

    def __init__(
        self,
        factory: Callable[[], object],
        *,
        dispose: Callable[[Any], object] | None = None,
        name: str | None = None,
        sockets: Callable[[T], Iterable[SocketHandle]] | None = None,
    ) -> None:
        _require_function(factory, "that makes a value")
        if dispose is not None:
            _require_function(dispose, "as dispose=")
        self._factory = factory
        self._dispose = dispose
        self._sockets = sockets
        self.name = name or str(getattr(factory, "__qualname__", type(factory).__name__))
        self._entries: dict[AbstractEventLoop, _Entry[T]] = {}
        self._leaving: dict[_Entry[T], AbstractEventLoop] = {}
        """Taken out, and not yet disposed of."""
        _instances[id(self)] = self

    def get(self) -> T:
        """The running loop's value, made now if need be.

        Raises:
            RuntimeError: no event loop is running in this thread.
            TypeError: the factory is asynchronous; ``await`` `aget` instead.
        """
        entry = self._entries.get(_get_running_loop())  # type: ignore[arg-type]  # there is no entry for None
        if entry is not None and entry.value is not _MISSING:
            return entry.value
        loop = self._running_loop()
        sweep()
        value = lastingly(self._factory)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise TypeError(f"the factory of {self!r} is asynchronous: write `await ....aget()` instead of `.get()`")
        self._refuse_generator(value)
        return self._keep(loop, _Entry(), cast(T, value))

    async def aget(self) -> T:
        """The running loop's value; the factory may be asynchronous. Tasks that ask at the same time share one call."""
        loop = self._running_loop()
        entry = self._entries.get(loop)
        if entry is not None and entry.value is not _MISSING:
            return entry.value
        if entry is None or entry.making is None:
            sweep()
            value = lastingly(self._factory)
            entry = _Entry()
            if not inspect.isawaitable(value):
                self._refuse_generator(value)
                return self._keep(loop, entry, cast(T, value))
            # Known before its task is made: an eager one (Python 3.12) may have failed, and be forgotten, by then.
            self._entries[loop] = entry
            # A task of its own: the first to ask may be cancelled without the others losing the value.
            entry.making = lastingly(lambda: loop.create_task(self._make(loop, entry, value)))
            entry.making.add_done_callback(retrieve)
        assert entry.making is not None
        return await asyncio.shield(entry.making)

    def peek(self) -> T | None:
        """The running loop's value if it has one, else ``None``; makes nothing."""
        entry = self._entries.get(self._running_loop())
        return None if entry is None or entry.value is _MISSING else entry.value

    async def aclose(self) -> None:
        """Disposes of the running loop's value now, if it has one; the next `get` makes a new one."""
        loop = self._running_loop()
        entry = self._entries.get(loop)
        if entry is not None and entry.making is not None:
            await asyncio.wait({entry.making})  # else it would put its value in after we are gone
        if entry is not None and entry.value is not _MISSING and self._pop(loop, entry):
            self._leaving[entry] = loop
            try:
                await dispose_of(entry.value, self._dispose, self.name)
            finally:
                self._leaving.pop(entry, None)
            self._disposed("explicit")
            if entry.guard is not None:
                await entry.guard.aclose()

    def forget(self) -> T | None:
        """Gives the running loop's value away: it is no longer ours to dispose of."""
        loop = _get_running_loop()
        entry = self._entries.get(loop) if loop is not None else None
        if loop is None or entry is None or entry.value is _MISSING or not self._pop(loop, entry):
            return None
        self._disposed("explicit")
        return entry.value

    def ending(self) -> bool:
        """Whether the running loop is being shut down: whatever is opened now should not be kept open."""
        return is_ending(self._running_loop())

    def live(self) -> list[tuple[AbstractEventLoop, T]]:
        """The loops that have a value, with it; from any thread."""
        return [(loop, entry.value) for loop, entry in list(self._entries.items()) if entry.value is not _MISSING]

    def __iter__(self) -> Iterator[T]:
        return iter([value for _, value in self.live()])

    def __len__(self) -> int:
        return len(self.live())

    def __repr__(self) -> str:
        loops = [loop for loop, _ in self.live()]
        closed = sum(loop.is_closed() for loop in loops)
        running = sum(loop.is_running() for loop in loops)
        idle = len(loops) - closed - running
        return f"<PerLoop {self.name!r} loops={len(loops)} running={running} idle={idle} closed={closed}>"

    def _refuse_generator(self, value: object) -> None:
        if inspect.isasyncgen(value):
            raise TypeError(
                f"the factory of {self!r} is an async generator function: let it `return` the value instead of "
                "`yield`, and give what comes after as dispose="
            )

    def _pop(self, loop: AbstractEventLoop, entry: _Entry[T]) -> bool:
        """Takes the entry out; false when it is no longer the loop's."""
        return self._entries.get(loop) is entry and self._entries.pop(loop, None) is entry

    def _running_loop(self) -> AbstractEventLoop:
        loop = _get_running_loop()
        if loop is None:
            raise RuntimeError(
                f"no event loop is running, so {self!r} has no value here: "
                "use it inside a coroutine, for example through loopwatch.run_async(...)"
            )
        return loop

    async def _make(self, loop: AbstractEventLoop, entry: _Entry[T], value: Awaitable[Any]) -> T:
        try:
            made = await value
        except BaseException:
            self._pop(loop, entry)
            raise
        return self._keep(loop, entry, cast(T, made))

    def _keep(self, loop: AbstractEventLoop, entry: _Entry[T], value: T) -> T:
        entry.value, entry.making = value, None
        self._entries[loop] = entry
        STATS.count(catalogue.ENGINES_CREATED, (self.name,))
        if not is_ending(loop):
            # The generator holds this object and the entry weakly: dropped by its owner, they go at once, and so does
            # the generator, whose finaliser then disposes of the value on its loop.
            guard = _dispose_with_loop(weakref.ref(self), weakref.ref(entry), loop, value, self._dispose, self.name)
            try:
                lastingly(lambda: start(guard))
                entry.guard = guard
            except ResourceWarning:
                # Where warnings are errors, this is how uvloop tells that it is being shut down.
                note_ending(loop)
        return value

    def _disposed(self, reason: Reason) -> None:
        STATS.count(catalogue.ENGINES_DISPOSED, (self.name, reason))

    def _sweep(self) -> None:
        for loop in list(self._entries):
            if loop.is_closed() and (entry := self._entries.pop(loop, None)) is not None:
                self._at_sockets(close_all, loop, entry)
                if entry.value is not _MISSING:
                    self._disposed("loop_closed")

    def _abandon_after_fork(self) -> None:
        entries, leaving = self._entries, self._leaving
        self._entries, self._leaving = {}, {}
        _graveyard.append((entries, leaving))
        for entry, loop in leaving.items():
            self._at_sockets(neutralise, loop, entry)
        for loop, entry in entries.items():
            self._at_sockets(neutralise, loop, entry)
            if entry.value is not _MISSING:
                self._disposed("fork")

    def _at_sockets(
        self, act: Callable[[Iterable[SocketHandle]], None], loop: AbstractEventLoop, entry: _Entry[T]
    ) -> None:
        """A client that hides its sockets, in some version of it, must cost neither a task nor the other clients."""
        try:
            act(self._sockets_beneath(loop, entry))
        except Exception as error:  # noqa: BLE001  # the user's code, or the driver's
            kind, text = type(error).__name__, redact(str(error))
            logger.warning("the sockets of %s could not be reached: %s: %s", self.name, kind, text)

    def _sockets_beneath(self, loop: AbstractEventLoop, entry: _Entry[T]) -> Iterable[SocketHandle]:
        """Those of the value, or of the factory that is under way."""
        if entry.value is _MISSING:
            return () if entry.making is None else sockets_of(entry.making.get_coro(), loop)
        return sockets_of(entry.value, loop) if self._sockets is None else self._sockets(entry.value)


async def _dispose_with_loop(
    owner: weakref.ref[PerLoop[T]],
    entry: weakref.ref[_Entry[T]],
    loop: AbstractEventLoop,
    value: T,
    dispose: Callable[[T], object] | None,
    name: str,
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        registry = owner()
        if registry is None:
            if await dispose_of(value, dispose, name):
                STATS.count(catalogue.ENGINES_DISPOSED, (name, "explicit"))
        elif (current := registry._entries.get(loop)) is not None and current is entry():
            note_ending(loop)
            if await dispose_of(value, dispose, registry.name):
                registry._entries.pop(loop, None)
                registry._disposed("process_exit" if _process_exits else "loop_end")
            # else it stays: once the loop is closed, the sweep closes its sockets.


def _require_function(given: object, what: str) -> None:
    if inspect.iscoroutine(given):
        given.close()  # without a warning that it was never awaited
        raise TypeError(
            f"PerLoop needs a function {what}, not a coroutine: leave out the brackets and write "
            f"`{given.__name__}` instead of `{given.__name__}()`"
        )
    if not callable(given):
        raise TypeError(f"PerLoop needs a function {what}, not {given!r:.80}")


def process_exits() -> None:
    """From now on loops end because the process does: disposals are counted as ``process_exit``."""
    global _process_exits
    _process_exits = True


def sweep() -> None:
    """Ends what is left of closed loops, in every `PerLoop` of the process."""
    for instance in _living():
        instance._sweep()


def add_holder(holder: Holder) -> None:
    """Registers a source of (pool, loop) pairs: an engine of somebody else's that `observe` watches. A bound method
    is held weakly."""
    _holders.append(hold_weakly(holder))


def _living() -> list[PerLoop[Any]]:
    return [instance for reference in _instances.valuerefs() if (instance := reference()) is not None]


def _engines() -> Iterator[tuple[str, AbstractEventLoop]]:
    for instance in _living():
        for loop, _ in instance.live():
            yield instance.name, loop
    for reference in list(_holders):
        holder = reference()
        if holder is None:
            with suppress(ValueError):  # another thread has just done it
                _holders.remove(reference)
        else:
            yield from holder()


def _gauges() -> Iterable[Gauge]:
    loops: set[AbstractEventLoop] = set()
    for pool, loop in _engines():
        closed = loop.is_closed()
        if not closed:
            loops.add(loop)
        yield catalogue.ENGINES, (pool,), 1
        yield catalogue.ENGINES_ORPHANED, (pool,), int(closed)
    yield catalogue.LOOPS, (), len(loops)


STATS.add_source(_gauges)


def _after_fork_in_child() -> None:
    for instance in _living():
        instance._abandon_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
