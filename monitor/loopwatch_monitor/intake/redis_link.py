"""A connection to a Redis on a socket of our own: TLS, AUTH, sentinels, a subscription, and a dead peer noticed."""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import hiredis

from loopwatch_monitor.intake.redis_address import Address, Endpoint
from loopwatch_monitor.intake.thread import ASK_SECONDS, CONNECT_TIMEOUT

__all__ = ["Link", "connect"]


class Link:
    """A connection to one server. What fails is an `OSError` or, where it was refused, a `hiredis.HiredisError`.

    ``reader`` has taken in what came along with the last answer.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.reader = hiredis.Reader()
        self._tls = endpoint.tls is not None
        self._socket = _open(endpoint)
        self._poll = select.poll()
        self._heard = self._asked = time.monotonic()
        try:
            if endpoint.password:
                self.ask("AUTH", *filter(None, (endpoint.username, endpoint.password)))
        except BaseException:
            self.close()
            raise

    def ask(self, *command: str) -> Any:
        """Sends a command and waits for its answer; for use before `subscribe`."""
        self._socket.sendall(hiredis.pack_command(command))
        while (answer := self.reader.gets()) is False:
            self.reader.feed(self._socket.recv(65536) or _closed())
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer

    def subscribe(self, pattern: str) -> None:
        """Asks for the messages on channels of this pattern; from now on `read` gets them."""
        self.ask("PSUBSCRIBE", pattern)
        self._socket.setblocking(False)
        self._poll.register(self._socket, select.POLLIN)

    def read_into(self, room: memoryview, wait: float) -> int:
        """Reads what has arrived; waits for it so many seconds. Returns how many bytes that were. Raises `OSError` when
        the peer is gone."""
        if not self._poll.poll(wait * 1000):
            self._mind_silence()
            return 0
        try:
            size = self._socket.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError):
            return 0
        if not size:
            _closed()
        self._heard = time.monotonic()
        return size + (self._read_on(room[size:]) if self._tls else 0)

    def close(self) -> None:
        """Lets go of the connection."""
        self._socket.close()

    def _read_on(self, room: memoryview) -> int:
        """A read of TLS ends with its record, of 16 kB at most, however much is there."""
        size = 0
        with suppress(ssl.SSLWantReadError):
            while size < len(room) and (more := self._socket.recv_into(room[size:])):
                size += more
        return size

    def _mind_silence(self) -> None:
        now = time.monotonic()
        if self._asked > self._heard and now - self._asked >= ASK_SECONDS:
            raise TimeoutError(f"the server has not answered for {ASK_SECONDS:g} seconds")
        if now - max(self._asked, self._heard) >= ASK_SECONDS:
            self._socket.send(hiredis.pack_command(("PING",)))
            self._asked = now


def _closed() -> NoReturn:
    raise ConnectionResetError("the server closed the connection")


def connect(address: Address) -> Link:
    """A link that is subscribed, to the first server that can be had."""
    link = _master(address) if address.master_name else _first(address.endpoints)
    try:
        link.subscribe(address.pattern)
    except BaseException:
        link.close()
        raise
    return link


def _first(endpoints: tuple[Endpoint, ...]) -> Link:
    """To the first endpoint that takes us; the last one's error when none does."""
    for endpoint in endpoints[:-1]:
        with suppress(OSError, hiredis.HiredisError):
            return Link(endpoint)
    return Link(endpoints[-1])


def _master(address: Address) -> Link:
    """To the server that the sentinels call the master now."""
    for number, endpoint in enumerate(address.endpoints, 1):
        try:
            host, port = _ask_sentinel(endpoint, address.master_name)
            break
        except (OSError, hiredis.HiredisError):
            if number == len(address.endpoints):
                raise
    return Link(replace(address.master, host=host, port=port))


def _ask_sentinel(endpoint: Endpoint, name: str) -> tuple[str, int]:
    link = Link(endpoint)
    try:
        answer = link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
    finally:
        link.close()
    if answer is None:
        raise ConnectionError(f"the sentinel {endpoint.host}:{endpoint.port} knows no server named {name}")
    host, port = answer
    return host.decode(), int(port)


def _open(endpoint: Endpoint) -> socket.socket:
    if endpoint.path:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(CONNECT_TIMEOUT)
        plain.connect(endpoint.path)
        return plain
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout=CONNECT_TIMEOUT)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if endpoint.tls is None:
        return plain
    try:
        return endpoint.tls.wrap_socket(plain, server_hostname=endpoint.host)
    except BaseException:
        plain.close()
        raise
