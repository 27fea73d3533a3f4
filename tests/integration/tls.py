"""TLS in front of a PostgreSQL that was built without it: what pgbouncer or a cloud's proxy does."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.integration.certificates import self_signed

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextmanager
def tls_in_front_of(database_url: str, directory: Path) -> Iterator[str]:
    """The same URL by way of a proxy that refuses whoever does not ask for TLS, and ends each client's session on the
    server when that client's socket is closed."""
    server = urlsplit(database_url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(directory))
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            if await reader.readexactly(8) != SSL_REQUEST:
                return
            writer.write(b"S")
            await writer.start_tls(context)
            inward, outward = await asyncio.open_connection(server.hostname, server.port)
            await asyncio.gather(_copy(reader, outward), _copy(inward, writer))
        except (OSError, EOFError):
            return
        finally:
            writer.close()
            clients.discard(task)

    loop = asyncio.new_event_loop()
    listener = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def stop() -> None:
        listener.close()
        for task in tuple(clients):
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    try:
        yield database_url.replace(f":{server.port}/", f":{listener.sockets[0].getsockname()[1]}/")
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
