"""A connection to a Redis on a socket of our own: TLS, AUTH, sentinels, questions, a subscription, and a dead peer
noticed.

The one way to Redis in the monitor: events come by it, and what is asked in the background is asked by it. redis-py and
kombu's transport would do, for 17 MB.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import hiredis

from loopwatch_monitor.intake.redis_address import Address, Endpoint
from loopwatch_monitor.intake.thread import ASK_SECONDS, CONNECT_TIMEOUT

__all__ = ["Link", "connect", "subscribe"]

LONGEST_ANSWER = 16 * 1024 * 1024
"""Bytes. What workers answer, anybody may have written."""
_Result = TypeVar("_Result")


class Link:
    """A connection to one server. What fails is an `OSError` or, where it was refused, a `hiredis.HiredisError`.

    Attributes:
        endpoint: the server.
        reader: has taken in what came along with the last answer.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.reader = hiredis.Reader()
        self._tls = endpoint.tls is not None
        self._socket = _open(endpoint)
        self._poll = select.poll()
        self._heard = self._asked = time.monotonic()
        self.cut_offs: int | None = None
        """How many clients the server had thrown out for reading too slowly, when this one subscribed; None where it
        does not say (before Redis 7.4 and Valkey 8, or to a user who may not ask)."""
        try:
            if endpoint.password:
                self.ask("AUTH", *filter(None, (endpoint.username, endpoint.password)))
        except BaseException:
            self.close()
            raise

    def ask(self, *command: str) -> Any:
        """Sends a command and waits for its answer; for use before `subscribe`. Raises a refusal."""
        (answer,) = self.ask_all([command])
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer

    def ask_all(self, commands: Sequence[Sequence[str]]) -> Iterator[Any]:
        """Sends commands in one go, and waits for each answer when it is taken: all are to be. A `hiredis.ReplyError`
        is one, too."""
        self._socket.sendall(b"".join(_packed(*command) for command in commands))
        return (self._answer() for _ in commands)

    def _answer(self) -> Any:
        while (answer := self.reader.gets()) is False:
            if self.reader.len() > LONGEST_ANSWER:
                raise hiredis.ProtocolError(f"an answer of more than {LONGEST_ANSWER} bytes")
            self.reader.feed(self._socket.recv(65536) or _closed())
        return answer

    def subscribe(self, pattern: str) -> None:
        """Asks for the messages on channels of this pattern; from now on `read_into` gets them."""
        self.cut_offs = self._count_cut_offs()
        self.ask("PSUBSCRIBE", pattern)
        self._socket.setblocking(False)
        self._poll.register(self._socket, select.POLLIN)

    def read_into(self, room: memoryview, wait: float) -> int:
        """Reads what has arrived; waits for it so many seconds. Returns how many bytes that were. Raises `OSError` when
        the peer is gone."""
        if wait:
            self._poll.poll(wait * 1000)
        try:
            size = self._socket.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._mind_silence()
            return 0
        if not size:
            _closed()
        self._heard = time.monotonic()
        return size + (self._read_on(room[size:]) if self._tls else 0)

    def close(self) -> None:
        """Lets go of the connection."""
        self._socket.close()

    def _count_cut_offs(self) -> int | None:
        try:
            found = re.search(rb"client_output_buffer_limit_disconnections:(\d+)", self.ask("INFO", "stats"))
        except hiredis.ReplyError:
            return None
        return int(found[1]) if found else None

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
            self._socket.send(_packed("PING"))
            self._asked = now


def _packed(*words: str) -> bytes:
    # Half a surrogate in a queue's name, which anybody may have sent, must not cost the other queues their answer.
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def _closed() -> NoReturn:
    raise ConnectionResetError("the server closed the connection")


def subscribe(address: Address) -> Link:
    """A link that is subscribed, to the first server that can be had."""
    return _reach(address, lambda link: link.subscribe(link.endpoint.pattern))


def connect(address: Address) -> Link:
    """A link for commands, to the first server that can be had."""
    return _reach(address, _select)


def _select(link: Link) -> None:
    if link.endpoint.database:
        link.ask("SELECT", str(link.endpoint.database))


def _reach(address: Address, prepare: Callable[[Link], None]) -> Link:
    def reach(endpoint: Endpoint) -> Link:
        link = Link(endpoint)
        try:
            prepare(link)
        except BaseException:
            link.close()
            raise
        return link

    if not address.master_name:
        return _first(reach, address.endpoints)
    host, port = _first(lambda sentinel: _ask_sentinel(sentinel, address.master_name), address.endpoints)
    return reach(replace(address.master, host=host, port=port))


def _first(use: Callable[[Endpoint], _Result], endpoints: tuple[Endpoint, ...]) -> _Result:
    """What the first endpoint that is of use gives; the last one's error when none is."""
    for endpoint in endpoints[:-1]:
        with suppress(OSError, hiredis.HiredisError):
            return use(endpoint)
    return use(endpoints[-1])


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


def _open_unix(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    try:
        found.settimeout(CONNECT_TIMEOUT)
        found.connect(path)
    except BaseException:
        found.close()
        raise
    return found


def _open(endpoint: Endpoint) -> socket.socket:
    if endpoint.path:
        return _open_unix(endpoint.path)
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout=CONNECT_TIMEOUT)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if endpoint.tls is None:
        return plain
    try:
        return endpoint.tls.wrap_socket(plain, server_hostname=endpoint.host)
    except BaseException:
        plain.close()
        raise
