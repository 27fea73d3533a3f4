"""Ports for the servers that tests start, and one that nobody answers."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from app.demo.servers import HOST, free_port

# Below those that the kernel gives to outgoing connections (32768 and more): none of them takes it between the choice
# and the start, or while the server is down.
_BELOW_EPHEMERAL = range(12_000, 32_000)


def server_port() -> int:
    """A TCP port of the loopback interface for a server that is started later, or killed and started again."""
    return free_port(random.choice(_BELOW_EPHEMERAL))


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port where connections are refused until the end of the block: it is bound, and nobody listens."""
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        port: int = nobody.getsockname()[1]
        yield port
