"""A real HTTP server in a thread, which knows how many connections are open: the only witness that counts for leaks."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle

from aiohttp import web

__all__ = ["HTTPServer", "serve"]

COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "local",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
MESSAGE = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "model": "local",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
_DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}


class HTTPServer:
    """Answers every request with what it was asked for, so that it can play a proxy; OpenAI's chat completions and
    Anthropic's messages, whole or as a stream without end; ``/slow``, ``/never`` and ``/stream``.
    Who asks for 503 tokens is told to try again every other time.
    """

    def __init__(self, runner: web.AppRunner, url: str) -> None:
        self._runner = runner
        self._loop = asyncio.get_running_loop()
        self.url = url

    def connections(self) -> int:
        """The connections that clients have open."""
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    def become(self, number: int, seconds: float = 60) -> bool:
        """Waits until there are so many; the server notices a closed socket a little later."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.connections() == number:
                # A connection leaves the list before its socket, which is of this process, is closed, in the same turn.
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(seconds)
                if self.connections() == number:  # somebody else may have come meanwhile, and will go
                    return True
            time.sleep(0.01)
        return False


_odd = cycle([True, False])


async def _answer(request: web.Request) -> web.StreamResponse:
    if request.path.endswith(("/chat/completions", "/messages")):
        asked = await request.json()
        if asked.get("max_tokens") == 503 and next(_odd):
            return web.Response(status=503, headers={"retry-after-ms": "1"})
        of_openai = request.path.endswith("/chat/completions")
        if asked.get("stream"):
            return await _stream(request, _openai_chunk() if of_openai else _anthropic_event())
        return web.json_response(COMPLETION if of_openai else MESSAGE)
    if request.path == "/stream":
        return await _stream(request, b"data: x\n\n")
    if request.path == "/slow":
        await asyncio.sleep(0.5)
    if request.path == "/never":
        while request.transport is not None:  # noqa: ASYNC110  # the end of a connection tells nobody
            await asyncio.sleep(0.05)
    return web.Response(text=request.raw_path)


def _openai_chunk() -> bytes:
    choice = {"index": 0, "delta": {"content": "hello"}, "finish_reason": None}
    return (
        b"data: " + json.dumps(COMPLETION | {"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"
    )


def _anthropic_event() -> bytes:
    return b"event: content_block_delta\ndata: " + json.dumps(_DELTA).encode() + b"\n\n"


async def _stream(request: web.Request, event: bytes) -> web.StreamResponse:
    """Server-sent events, until the client has gone or the server is stopped."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(event)
            await asyncio.sleep(0.01)
    return response


@contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[HTTPServer]:
    """Runs it on a free port until the end of the block."""
    started: list[HTTPServer] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(web.Application(), shutdown_timeout=0.1)
        runner.app.router.add_route("*", "/{path:.*}", _answer)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        scheme = "https" if tls else "http"
        started.append(HTTPServer(runner, f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"))
        ready.set()
        return runner

    def work() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
