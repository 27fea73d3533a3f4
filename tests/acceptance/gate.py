"""A TCP gate before a real server: closing it is an outage of the network, for connections old and new."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.acceptance.stack import free_port

__all__ = ["Gate"]


class Gate:
    """Forwards a port of the loopback interface to a server while it is open."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._port = free_port()
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.open()

    @classmethod
    @contextmanager
    def before(cls, url: str) -> Iterator[tuple[Gate, str]]:
        """A gate before the server of ``url``, and the URL that leads through it."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        gate = cls((parts.hostname, parts.port))
        try:
            yield gate, url.replace(f":{parts.port}/", f":{gate._port}/")
        finally:
            gate.close()

    def open(self) -> None:
        """Lets connections pass, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def close(self) -> None:
        """Ends all connections and refuses new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            ending, self._sockets = self._sockets, set()
        if listener is not None:
            # Wakes the thread that waits in accept(), which close() alone does not.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in ending:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    if self._listener is not listener:  # closed meanwhile: this one is old, too
                        client.close()
                        server.close()
                        return
                    self._sockets |= {client, server}
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=[source, sink], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for connection in (source, sink):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        # Each direction closes what it reads from: both sockets are closed once both have ended.
        with self._lock:
            self._sockets.discard(source)
        source.close()
