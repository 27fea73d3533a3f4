"""The monitor's server on real sockets, and a client that sends just the bytes that it is given."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.parser import BytesParser
from pathlib import Path
from typing import Any, NamedTuple

from loopwatch_monitor.addresses import Address
from loopwatch_monitor.guard import Guard
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.server import Server
from loopwatch_monitor.settings import Settings

DEADLINE = 60.0
"""Seconds that anything may take on a slow machine."""


class Response(NamedTuple):
    """``headers`` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Asks one server."""

    def __init__(self, address: Address, context: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.context = context

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to do as one likes with."""
        if self.address.path:
            return await asyncio.open_unix_connection(self.address.path)
        return await asyncio.open_connection(self.address.host, self.address.port, ssl=self.context)

    async def raw(self, data: bytes) -> Response:
        """Sends the bytes, and reads until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            async with asyncio.timeout(DEADLINE):
                return parse(await reader.read())
        finally:
            writer.close()

    async def get(self, path: str, *headers: str, method: str = "GET") -> Response:
        """One request on a connection of its own; ``headers`` as ``Name: value``."""
        lines = [f"{method} {path} HTTP/1.1", "Host: monitor", "Connection: close", *headers]
        return await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition; fails naming it."""
    deadline = time.monotonic() + DEADLINE
    while not condition():  # set by a thread, or by the kernel
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.02)


def parse(data: bytes) -> Response:
    """A response from its bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, _, lines = head.partition(b"\r\n")
    headers = {name.lower(): value for name, value in BytesParser().parsebytes(lines + b"\r\n\r\n").items()}
    return Response(int(status.split(b" ")[1]), headers, body)


@asynccontextmanager
async def serving(
    config: Path | None = None, *, address: Address | None = None, status: BrokerStatus | None = None, **options: Any
) -> AsyncIterator[Client]:
    """A server of an empty hub."""
    status = status or BrokerStatus(up=True)
    hub = Hub(Settings(broker_url="memory://"), status=status, version="1.2.3")
    given: dict[str, Any] = {"pieces": hub.pieces, "probe": lambda: None, "guard": Guard(config)} | options
    server = Server(status=status, version="1.2.3", **given)
    (bound,) = await server.start([address or Address("127.0.0.1")])
    try:
        yield Client(bound)
    finally:
        await server.close()
