"""gevent and eventlet: an event loop that gives way to the other greenlets while it waits.

Both patch threads, locks and sockets, so that one thread's greenlets take turns in its *hub*. A loop in a native
thread beside it works only until two threads want the same patched lock: with `logging`'s, gevent loses the wake-up,
eventlet raises in its hub, and the worker hangs for good. So the loop is a greenlet like the others, and its selector
waits through the hub.

While the loop waits, it is not the thread's running loop: another greenlet is not inside it. While a coroutine waits
in the green way (it sends a message to the broker, say), asyncio takes all greenlets to be inside; `running_loop` does
not.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeAlias

from loopwatch.errors import ConfigurationError

__all__ = ["check_thread", "new_event_loop", "patched_by", "running_loop"]

FOREVER = 3600.0
"""Seconds that a forked child's copy of the loop's greenlet sleeps, again and again."""

EPOLLIN, EPOLLOUT = 0x001, 0x004
"""The kernel's numbers: `select` has them on Linux only."""

_Running: TypeAlias = tuple[AbstractEventLoop | None, tuple[Any, Any]]
Wait: TypeAlias = Callable[[int, float | None], None]


def patched_by() -> str | None:
    """``gevent`` or ``eventlet``, where it has patched this interpreter's threads; imports neither.

    >>> patched_by() is None
    True
    """
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


def new_event_loop(green: str) -> AbstractEventLoop:
    """A loop for a greenlet of ``gevent``'s or ``eventlet``'s. Always asyncio's own: uvloop would stop the hub.

    Raises:
        ConfigurationError: not on Linux, or eventlet runs on an asyncio loop itself.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(f"run_async() under {green} needs Linux (epoll): use Celery's threads pool instead")
    return _GreenLoop(_GreenSelector(*(_gevent() if green == "gevent" else _eventlet())))


def running_loop() -> AbstractEventLoop | None:
    """The loop that the current code runs on."""
    loop = asyncio._get_running_loop()
    return None if isinstance(loop, _GreenLoop) and not loop.runs_this_greenlet() else loop


def check_thread() -> None:
    """Raises `ConfigurationError` in a native thread beside the greenlets': it must not wait for one of them."""
    green = patched_by()
    if green is not None and threading.get_native_id() != os.getpid():
        raise ConfigurationError(
            f"run_async() was called in a native thread of a process that {green} has patched (a thread of "
            "gevent.threadpool or eventlet.tpool): call it in a greenlet"
        )


class _GreenLoop(asyncio.SelectorEventLoop):
    def __init__(self, selector: selectors.BaseSelector) -> None:
        super().__init__(selector)
        self._current = import_module("greenlet").getcurrent
        self._greenlet: Any = None

    def run_forever(self) -> None:
        self._greenlet = self._current()
        super().run_forever()

    def runs_this_greenlet(self) -> bool:
        greenlet = self._current()
        while greenlet is not None and greenlet is not self._greenlet:
            greenlet = greenlet.parent  # SQLAlchemy runs synchronous code in children of its own
        return greenlet is not None


class _GreenSelector(selectors.BaseSelector):
    """A selector on the system's own ``epoll``, for whose descriptor the hub waits.

    Not the patched ``selectors.DefaultSelector``: eventlet's finds one ready descriptor a call, and needs a system call
    or two for each of the others.
    """

    def __init__(self, epoll: Callable[[], Any], wait: Wait, sleep: Callable[[float], object]) -> None:
        self._epoll = epoll()
        self._wait = wait
        self._sleep = sleep
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._pid = os.getpid()
        self._outside: _Running = (None, (None, None))

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, _descriptor(fileobj), events, data)
        if key.fd in self._keys:
            raise KeyError(f"{fileobj!r} (descriptor {key.fd}) is already registered")
        self._epoll.register(key.fd, _mask(events))
        self._keys[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self._keys.pop(_descriptor(fileobj))
        with suppress(OSError):  # closed by now, and so epoll has forgotten it
            self._epoll.unregister(key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[_descriptor(fileobj)]
        if events != key.events:
            self._epoll.modify(key.fd, _mask(events))
        self._keys[key.fd] = changed = key._replace(events=events, data=data)
        return changed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._give_way(timeout)
        found = self._epoll.poll(0, max(len(self._keys), 1))
        keys = [(self._keys.get(descriptor), seen) for descriptor, seen in found]
        return [(key, _events(seen) & key.events) for key, seen in keys if key is not None]

    def close(self) -> None:
        self._epoll.close()
        self._keys.clear()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[_descriptor(fileobj)]

    def _give_way(self, timeout: float | None) -> None:
        """Lets the other greenlets run at least once, and until a descriptor is ready or the time is up."""
        ours = _running()
        _run_as(self._outside)
        if timeout is None or timeout > 0:
            self._wait(self._epoll.fileno(), timeout)
        else:
            self._sleep(0)
        while os.getpid() != self._pid:  # a forked child has our greenlet, but the sockets are its parent's
            self._sleep(FOREVER)
        self._outside = _running()
        _run_as(ours)


def _running() -> _Running:
    """What asyncio keeps for a thread while its loop runs."""
    hooks = sys.get_asyncgen_hooks()
    return asyncio._get_running_loop(), (hooks.firstiter, hooks.finalizer)


def _run_as(state: _Running) -> None:
    asyncio._set_running_loop(state[0])
    sys.set_asyncgen_hooks(*state[1])


def _descriptor(fileobj: Any) -> int:
    descriptor = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    if descriptor < 0:
        raise ValueError(f"invalid file descriptor {descriptor} of {fileobj!r}")
    return descriptor


def _mask(events: int) -> int:
    return (EPOLLIN if events & selectors.EVENT_READ else 0) | (EPOLLOUT if events & selectors.EVENT_WRITE else 0)


def _events(seen: int) -> int:
    # An error or a hang-up is for readers and writers alike to find.
    return (selectors.EVENT_READ if seen & ~EPOLLOUT else 0) | (selectors.EVENT_WRITE if seen & ~EPOLLIN else 0)


class _TimeIsUpError(BaseException):
    """Raised by the hub, and caught here."""


def _gevent() -> tuple[Any, Wait, Callable[[float], object]]:
    gevent = import_module("gevent")  # untyped, and seldom installed
    monkey, socket = import_module("gevent.monkey"), import_module("gevent.socket")

    def wait(descriptor: int, seconds: float | None) -> None:
        with suppress(_TimeIsUpError):
            socket.wait_read(descriptor, seconds, _TimeIsUpError())

    return monkey.get_original("select", "epoll"), wait, gevent.sleep


def _eventlet() -> tuple[Any, Wait, Callable[[float], object]]:
    eventlet, patcher = import_module("eventlet"), import_module("eventlet.patcher")
    hubs = import_module("eventlet.hubs")
    if type(hubs.get_hub()).__module__ == "eventlet.hubs.asyncio":
        raise ConfigurationError(
            "run_async() does not work on eventlet's asyncio hub, in whose loop everything runs: unset EVENTLET_HUB, "
            "or use eventlet.asyncio.spawn_for_awaitable(...)"
        )

    def wait(descriptor: int, seconds: float | None) -> None:
        with suppress(_TimeIsUpError):
            hubs.trampoline(descriptor, read=True, timeout=seconds, timeout_exc=_TimeIsUpError)

    return patcher.original("select").epoll, wait, eventlet.sleep
