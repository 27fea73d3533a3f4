"""One request of the HTTP adapter: measured until its response is closed, and its response kept to its own loop."""

from __future__ import annotations

import asyncio
import importlib
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from functools import cache
from time import perf_counter
from typing import Any

from loopwatch.adapters.foreign_loop import refuse_foreign_loop
from loopwatch.adapters.pool_meter import PoolMeter

__all__ = ["Exchange", "guarded_stream"]


class Exchange:
    """Waits for a connection, then uses it. A request's extension ``trace``, which is httpcore's way to be watched.

    It is called twice for each step of a request; so ours takes itself out (of a dictionary that is its own) once the
    connection is there. One of the user's is called all the same.
    """

    __slots__ = ("__weakref__", "_connecting", "_meter", "_start", "_theirs", "_waits", "extensions")

    def __init__(self, meter: PoolMeter, extensions: dict[str, Any]) -> None:
        self._meter = meter
        self._theirs = extensions.get("trace")
        self.extensions = {**extensions, "trace": self}
        """The extensions of the request as it is sent."""
        self._connecting = 0.0
        self._waits = True
        meter.waiting += 1
        self._start = perf_counter()

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if self._waits:
            if event.endswith(("connect_tcp.started", "connect_unix_socket.started")):
                self._connecting = self._connecting or perf_counter()
            # A proxy's CONNECT belongs to the making of the connection.
            elif event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
                self._connected()
        if self._theirs is not None:
            await self._theirs(event, info)

    def _connected(self) -> None:
        self._stop_waiting()
        if self._connecting:
            self._meter.created(self._connecting)
        self._meter.taken(self, self._start)
        if self._theirs is None:
            del self.extensions["trace"]
        else:
            self.extensions["trace"] = self._theirs

    def _stop_waiting(self) -> None:
        self._waits = False
        self._meter.waiting -= 1

    def failed(self, *, timed_out: bool) -> None:
        """It was not answered; ``timed_out``: because it had no connection in time."""
        if self._waits:
            self._stop_waiting()
            if timed_out:
                self._meter.timed_out(self._start)
        self.closed()

    def closed(self) -> None:
        """Its response was closed, or will never come."""
        self._meter.given_back(self)


class _Stream:
    """A response's stream. Mixed into a library's ``AsyncByteStream``, which its client asks for."""

    def __init__(self, stream: Any, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._refuse_elsewhere()
        return _Chunks(self, self._stream.__aiter__())

    async def aclose(self) -> None:
        self._refuse_elsewhere()
        self._closed = True
        try:
            await self._stream.aclose()
        finally:
            self._exchange.closed()

    def _refuse_elsewhere(self) -> None:
        if _get_running_loop() is not self._loop:
            refuse_foreign_loop(
                self._loop,
                what="the stream of an HTTP response",
                fix="read and close a response where its request was sent, or send the request anew",
                resource="httpx",
            )

    def __del__(self) -> None:
        # Lost without having been closed: httpcore would count the connection as busy until its loop ends.
        if not self._closed:
            self._exchange.closed()
            with suppress(RuntimeError):  # the loop is closed, maybe just now by its own thread
                self._loop.call_soon_threadsafe(_close_lost, self._stream, self._loop)


class _Chunks:
    """What `_Stream` gives, one check a chunk; not a generator, which would cost each of them more."""

    __slots__ = ("_iterator", "_stream")

    def __init__(self, stream: _Stream, iterator: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._iterator = iterator

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        self._stream._refuse_elsewhere()
        return self._iterator.__anext__()

    def __del__(self) -> None:
        # Read to its end, or abandoned, in which case httpcore's iterator closes the connection when it is finalised.
        self._stream._exchange.closed()


@cache
def _stream_class(library: str) -> Any:
    return type("Stream", (_Stream, importlib.import_module(library).AsyncByteStream), {})


def guarded_stream(library: str, stream: Any, exchange: Exchange) -> Any:
    """``stream`` (an ``AsyncByteStream`` of the library), which ends ``exchange`` and refuses other loops."""
    return _stream_class(library)(stream, exchange)


_closing: set[asyncio.Task[None]] = set()


def _close_lost(stream: Any, loop: AbstractEventLoop) -> None:
    task = loop.create_task(stream.aclose())
    _closing.add(task)  # a loop itself refers to its tasks weakly
    task.add_done_callback(_closing.discard)
