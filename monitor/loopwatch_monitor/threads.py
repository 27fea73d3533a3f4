"""Blocking work beside the event loop, in threads that do not outlive the process.

asyncio's own executor is joined at exit: a broker that hangs, or a page of 100 MB, would hold SIGTERM up for seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    """Calls the function in a daemon thread and returns or raises what it does. Cancelled, it lets the thread run on.

    >>> asyncio.run(in_thread(lambda: 1 + 1))
    2
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is a T where there is no error

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # raised to whoever waits
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="loopwatch-work", daemon=True).start()
    return await future
