"""The monitor's pages: `/`, `/metrics`, `/health`, `/ready`, `/live`; each for GET and HEAD, and only for whom the
guard lets in. A scrape never asks the broker; `/health` does, as celery-exporter's does.

Which probe for what: `/live` answers 200 while this process works (a restart would mend nothing else, and lose the
counters); `/ready` answers 200 while events come in and are kept up with; `/health` connects to the broker to see.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

from aiohttp import web

from loopwatch_monitor.addresses import Address, bind, unlink
from loopwatch_monitor.connections import Connections, reset
from loopwatch_monitor.guard import Guard
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.landing import CONTENT_SECURITY_POLICY, landing_page
from loopwatch_monitor.negotiate import accepts_gzip, choose_format
from loopwatch_monitor.passwords import TooManyChecksError
from loopwatch_monitor.scrape import Pieces, Scraper, TooManyPagesError, Variant
from loopwatch_monitor.threads import in_thread

__all__ = ["ListenError", "Server"]

PROBE_SECONDS = 2.0
"""How long a probe's answer is good: many callers of `/health` must not become many connections to the broker."""
SEND_SECONDS = 60.0
"""How long a client may take to read a page."""
MAX_NAMES = 100
"""Families that may be named in one request."""
CLOSE_SECONDS = 0.1
"""How long a response may take to end when the monitor does; waited for twice at most."""
PROBES = ("/health", "/ready", "/live")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "loopwatch",
}


class ListenError(Exception):
    """An address that cannot be listened on. ``error``: why."""

    def __init__(self, address: Address, error: OSError) -> None:
        super().__init__(f"cannot listen on {address}")
        self.address = address
        self.error = error


class Server:
    """Serves the pages until it is closed.

    Args:
        pieces: makes the exposition; called in a thread.
        probe: connects to the broker once, raising `BrokerUnreachableError`; called in a thread.
        status: what the intake knows of itself.
        version: shown on the landing page.
        guard: lets requests in.
        open_health: whether the probes answer without authentication, with their status alone.
    """

    def __init__(
        self,
        *,
        pieces: Pieces,
        probe: Callable[[], None],
        status: BrokerStatus,
        version: str,
        guard: Guard | None = None,
        open_health: bool = False,
    ) -> None:
        self._scraper = Scraper(pieces, reset)
        self._probe = probe
        self._status = status
        self._version = version
        self._guard = guard or Guard()
        self._open_health = open_health
        self._probing: asyncio.Task[str] | None = None
        self._probed_at = 0.0
        self._runner: web.AppRunner | None = None
        self._connections: Connections | None = None
        self._listeners: list[socket.socket] = []

    async def start(self, addresses: Sequence[Address]) -> list[Address]:
        """Listens on all of the addresses; returns them with the ports that were free. Raises `ListenError`."""
        app = web.Application(middlewares=[self._protect])
        pages = {"/": self._landing, "/metrics": self._metrics, "/health": self._health, "/ready": self._ready}
        app.add_routes([web.get(path, handler) for path, handler in (pages | {"/live": self._live}).items()])
        app.on_response_prepare.append(self._add_headers)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)
        await self._runner.setup()
        assert self._runner.server is not None
        self._connections = Connections(self._runner.server, self._guard.tls)
        bound = []
        for address in addresses:
            try:
                listeners = bind(address)
            except OSError as error:
                await self.close()
                raise ListenError(address, error) from None
            self._listeners += listeners
            bound.append(address if address.path else address._replace(port=listeners[0].getsockname()[1]))
        for listener in self._listeners:
            self._connections.accept(listener)
        return bound

    async def close(self) -> None:
        """Stops listening; what is being sent gets a moment to end."""
        for listener in self._listeners:
            unlink(listener)  # at once: who waits for us may not wait to the end
        if self._connections is not None:
            await self._connections.close()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # -------------------------------------------------------------------------------------------- who may come in
    @web.middleware
    async def _protect(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        assert self._connections is not None
        self._connections.began(request.protocol)
        try:
            return await self._refusal(request) or await handler(request)
        finally:
            self._connections.ended(request.protocol)

    async def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._guard.admits():
            limit = self._guard.current().rate_limit
            wait = math.ceil(limit.interval) if limit is not None else 1
            return _refused(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(wait)})
        if not (self._open_health and request.rel_url.raw_path in PROBES):
            try:
                if not await self._guard.passwords.admits(request.headers.get("Authorization", "")):
                    return _refused(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Basic"})
            except TooManyChecksError:
                return _refused(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "1"})
        if request.method not in ("GET", "HEAD"):
            return _refused(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        if request.body_exists:
            return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {})
        return None

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        for name, value in (_HEADERS | dict(self._guard.current().headers)).items():
            if value:
                response.headers[name] = value

    # -------------------------------------------------------------------------------------------- pages
    async def _landing(self, request: web.Request) -> web.Response:
        return web.Response(text=landing_page(self._version), content_type="text/html")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers
        variant = Variant(
            choose_format(",".join(headers.getall("Accept", ()))),
            accepts_gzip(",".join(headers.getall("Accept-Encoding", ()))),
            frozenset(request.query.getall("name[]", ())),
        )
        if len(variant.names) > MAX_NAMES:
            return web.Response(
                status=HTTPStatus.BAD_REQUEST, text=f"at most {MAX_NAMES} name[]; none gives them all\n"
            )
        try:
            page = await self._scraper.page(variant)
        except TooManyPagesError:
            return _refused(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"})
        response = web.StreamResponse(headers={"Content-Type": variant.form.value, "Vary": "Accept, Accept-Encoding"})
        if variant.gzip:
            response.headers["Content-Encoding"] = "gzip"
        response.content_length = sum(map(len, page))
        if request.transport is None:
            raise ConnectionResetError("the client is gone")
        with self._scraper.reading(page, request.transport):
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await _send(request, response, page)
            except TimeoutError:
                reset(request.transport)
                raise
        return response

    async def _live(self, request: web.Request) -> web.Response:
        return self._answer(True, {})

    async def _ready(self, request: web.Request) -> web.Response:
        status = self._status
        reason = "the broker is not connected" if not status.up else "the intake is behind" if status.behind else ""
        found: dict[str, object] = {
            "broker": "up" if status.up else "down",
            "buffered": status.buffered,
            "buffer_limit": status.buffer_limit,
        }
        return self._answer(not reason, found | ({"reason": reason} if reason else {}))

    async def _health(self, request: web.Request) -> web.Response:
        broker = await self._broker()
        return self._answer(self._status.up and broker == "up", {"broker": broker, "consuming": self._status.up})

    def _answer(self, good: bool, details: dict[str, object]) -> web.Response:
        body: dict[str, object] = {"status": "ok" if good else "unavailable"}
        if not (self._open_health and self._guard.passwords.users):
            # Who has not said who he is is told no more.
            body |= details | {"version": self._version}
        return web.json_response(body, status=HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _broker(self) -> str:
        """ "up", or why it is not. Callers that come together share one probe."""
        if self._probing is None or time.monotonic() - self._probed_at > PROBE_SECONDS:
            self._probed_at = time.monotonic()
            self._probing = asyncio.create_task(self._ask())
        return await asyncio.shield(self._probing)

    async def _ask(self) -> str:
        try:
            await in_thread(self._probe)
        except BrokerUnreachableError as error:
            return str(error)
        return "up"


def _refused(status: HTTPStatus, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, text=f"{status.value} {status.phrase}\n", headers=headers)


async def _send(request: web.Request, response: web.StreamResponse, page: list[bytes]) -> None:
    await response.prepare(request)
    if request.method != "HEAD":
        for piece in page:
            await response.write(piece)
    await response.write_eof()
