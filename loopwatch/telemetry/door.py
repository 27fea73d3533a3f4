"""The way in for a pool child that was spawned, not forked: it inherits no socket, so it comes by a name.

The name is that of an abstract Unix datagram socket (Linux): no file, and the kernel frees it with its process. It
cannot be guessed, but every process of the machine may read it in ``/proc/net/unix``; so what tells whether a datagram
is to be believed is its sender's user, which the kernel adds to each (``SCM_CREDENTIALS``) and no sender can choose.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import sys

__all__ = ["Door", "can_open", "connect"]

_CREDENTIALS = struct.Struct("iII")
"""``struct ucred``: process, user, group."""


def can_open() -> bool:
    """Whether this system has abstract sockets and tells who sends: Linux."""
    return sys.platform == "linux"


class Door:
    """The parent's end, open from the moment it is made.

    >>> door = Door()
    >>> with connect(door.address) as child:
    ...     child.send(b"hello")
    5
    >>> door.receive(100)
    b'hello'
    >>> door.close()
    """

    def __init__(self) -> None:
        self.address = f"loopwatch/{os.getpid()}/{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Before the name is known: what is sent without it carries no credentials.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{self.address}")

    def fileno(self) -> int:
        """The descriptor, for `select.poll`."""
        return self._socket.fileno()

    def receive(self, size: int) -> bytes | None:
        """The next datagram; ``None`` for one that another user sent.

        Raises:
            BlockingIOError: there is none.
        """
        datagram, ancillary, _, _ = self._socket.recvmsg(
            size, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_DONTWAIT
        )
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                _, user, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
                if user == os.getuid():
                    return datagram
        return None

    def close(self) -> None:
        """Closes it; a child that still sends gets an `OSError`, which its writer counts."""
        self._socket.close()


def connect(address: str) -> socket.socket:
    """A child's end of the door of this address; raises `OSError` when nobody is there."""
    child = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        child.connect(f"\0{address}")
    except OSError:
        child.close()
        raise
    return child
