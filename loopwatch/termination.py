"""The signal that ends a pool child, inside asyncio: it comes out of the loop instead of out of whatever runs.

``revoke(terminate=True)``, a hard time limit and a cold shutdown end a prefork child by ``SIGTERM``, whose handler
(billiard's) raises ``SystemExit`` wherever the main thread happens to be. Inside a driver's compiled callback that is
no place to raise: of 300 children that were busy with asyncpg, 52 crashed, 13 hung and 5 went on as if nothing had
been said. So while the loop runs, our handler only asks it to exit:

- the exception is raised between two callbacks, the coroutine is cancelled and ends, its ``finally`` blocks included;
- code that blocks the loop is interrupted where it blocks, `GRACE` seconds on.

The exception is made by calling billiard's own handler, so nothing here imports it.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from asyncio import AbstractEventLoop
from types import FrameType

from loopwatch.soft_limit import GRACE, Handler

__all__ = ["Termination"]

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGQUIT", "SIGHUP") if hasattr(signal, name)]


class Termination:
    """The handling of a child's ends on ``loop``, the main thread's; without billiard's handlers it does nothing."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._handlers: dict[int, Handler] = {}
        self._asked = False
        self._exits = False
        self._lock = threading.Lock()

    def install(self) -> None:
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if getattr(handler, "__module__", None) == "billiard.common" and callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._on_signal)

    def remove(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Takes no lock: the code that it interrupts may hold it.
        if not self._asked and self._loop.is_running() and self._ask(number):
            return
        self._exits = True
        self._handlers[number](number, frame)

    def _ask(self, number: int) -> bool:
        self._asked = True
        try:
            _thread.start_new_thread(self._insist, (number,))
        except RuntimeError:  # as many threads as the system allows: nobody would interrupt what blocks
            return False
        self._loop.call_soon_threadsafe(self._exit, number)
        return True

    def _exit(self, number: int) -> None:
        # Our own signal, if it is under way, arrives while the lock is waited for: after billiard's handler it would
        # kill this process before the coroutine has ended.
        with self._lock:
            if self._exits:  # it was raised in place, and the coroutine is about to end
                return
            self._exits = True
        self._handlers[number](number, None)

    def _insist(self, number: int) -> None:
        main = threading.main_thread().ident
        assert main is not None
        time.sleep(GRACE)
        with self._lock:
            if not self._exits:
                signal.pthread_kill(main, number)
