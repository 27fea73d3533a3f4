"""Where to listen: addresses as the command line gives them, and sockets that are bound to them."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Address", "AddressError", "bind", "parse_address", "unlink"]

_BACKLOG = 128
_UNIX = "unix://"


class AddressError(ValueError):
    """An address that cannot be listened on; the message names it."""


class Address(NamedTuple):
    """Where to listen: a path (a unix socket), or a host ("" = all interfaces) and a port (0 = a free one)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_UNIX}{self.path}" if self.path else f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """An address from its text; raises `AddressError`.

    >>> parse_address("[::1]:9808")
    Address(host='::1', port=9808, path='')
    >>> str(parse_address("unix:///run/loopwatch.sock"))
    'unix:///run/loopwatch.sock'
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/"):
            raise AddressError(f"{text!r} needs an absolute path: unix:///run/loopwatch.sock")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    good_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not good_port or ("[" in host or "]" in host or ":" in host) != bracketed:
        raise AddressError(f"{text!r} must be written like 127.0.0.1:9808, [::1]:9808, :9808 or unix:///path")
    return Address(host[1:-1] if bracketed else host, int(port))


def bind(address: Address) -> list[socket.socket]:
    """Listening sockets, one for each address that the host has; raises `OSError`."""
    return [_bind_unix(address.path)] if address.path else _bind_tcp(address)


def unlink(listener: socket.socket) -> None:
    """Removes the file of a unix socket."""
    if listener.family == socket.AF_UNIX:
        with suppress(FileNotFoundError):
            Path(listener.getsockname()).unlink()


def _bind_tcp(address: Address) -> list[socket.socket]:
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            try:
                listener = socket.socket(family, kind, protocol)
            except OSError:
                continue  # a machine without IPv6 has the names for it all the same
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = address.port or listeners[0].getsockname()[1]
            listener.bind((place[0], port, *place[2:]))
            _listen(listener)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # For our user and group alone: what a reverse proxy's user is added to.
    umask = os.umask(0o117)
    try:
        listener.bind(path)
        _listen(listener)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def _remove_stale(path: str) -> None:
    """Removes the socket of a monitor that was killed; one that is listened on is left, for `bind` to complain of."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
    except OSError:
        return


def _listen(listener: socket.socket) -> None:
    listener.listen(_BACKLOG)
    listener.setblocking(False)
