"""The monitor's pages: `/` (what there is), `/metrics`, `/health`. A scrape never asks the broker; `/health` does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web

from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.render import CONTENT_TYPE

__all__ = ["Server"]

PROBE_SECONDS = 2.0
"""How long a probe's answer is good: many callers of `/health` must not become many connections to the broker."""
_COMPRESS_IN_THREAD = 64 * 1024

_LANDING = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>loopwatch monitor</title></head>
<body><h1>loopwatch monitor</h1>
<p>Version {version}. Celery tasks, workers, event loops, pools and loop conflicts, for Prometheus.</p>
<ul><li><a href="metrics">/metrics</a></li><li><a href="health">/health</a></li></ul>
</body></html>
"""


class Server:
    """Serves the pages until it is closed.

    Args:
        page: makes the exposition; called in a thread.
        probe: connects to the broker once, raising `BrokerUnreachableError`; called in a thread.
        status: what the intake knows of its connection.
        version: shown on the landing page.
    """

    def __init__(
        self, *, page: Callable[[], bytes], probe: Callable[[], None], status: BrokerStatus, version: str
    ) -> None:
        self._page = page
        self._probe = probe
        self._status = status
        self._version = version
        self._probing: asyncio.Task[str] | None = None
        self._probed_at = 0.0
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port (``port`` 0 takes a free one). Raises `OSError` when it cannot."""
        app = web.Application()
        app.add_routes(
            [web.get("/", self._landing), web.get("/metrics", self._metrics), web.get("/health", self._health)]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError:
            await self.close()
            raise
        address: tuple[str, int] = self._runner.addresses[0]
        return address[1]

    async def close(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _landing(self, request: web.Request) -> web.Response:
        return web.Response(text=_LANDING.format(version=self._version), content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.Response:
        page = await asyncio.to_thread(self._page)
        response = web.Response(
            body=page, headers={"Content-Type": CONTENT_TYPE}, zlib_executor_size=_COMPRESS_IN_THREAD
        )
        response.enable_compression()
        return response

    async def _health(self, request: web.Request) -> web.Response:
        broker = await self._broker()
        healthy = self._status.up and broker == "up"
        body = {
            "status": "ok" if healthy else "unavailable",
            "broker": broker,
            "consuming": self._status.up,
            "version": self._version,
        }
        return web.json_response(body, status=200 if healthy else 503)

    async def _broker(self) -> str:
        """ "up", or why it is not. Callers that come together share one probe."""
        if self._probing is None or time.monotonic() - self._probed_at > PROBE_SECONDS:
            self._probed_at = time.monotonic()
            self._probing = asyncio.create_task(self._ask())
        return await asyncio.shield(self._probing)

    async def _ask(self) -> str:
        try:
            await asyncio.to_thread(self._probe)
        except BrokerUnreachableError as error:
            return str(error)
        return "up"
