"""A real HTTP server in a thread, which knows how many connections are open: the only witness that counts for leaks."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


class HTTPServer:
    """Answers every request with what it was asked for, so that it can play a proxy; and OpenAI's chat completions."""

    def __init__(self, runner: web.AppRunner, url: str) -> None:
        self._runner = runner
        self.url = url

    def connections(self) -> int:
        """The connections that clients have open."""
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    def become(self, number: int, seconds: float = 10) -> bool:
        """Waits until there are so many; the server notices a closed socket a little later."""
        deadline = time.monotonic() + seconds
        while self.connections() != number and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.connections() == number


async def _answer(request: web.Request) -> web.Response:
    if request.path.endswith("/chat/completions"):
        await request.read()
        return web.json_response(COMPLETION)
    if request.path == "/slow":
        await asyncio.sleep(0.5)
    return web.Response(text=request.raw_path)


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
    assert ready.wait(10)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
