"""Ports for servers that start some time after their ports are chosen, and one that nobody answers."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from app.demo.servers import HOST, free_port

__all__ = ["refusing_port", "server_port"]

BELOW_EPHEMERAL = range(12_000, 32_000)
"""The kernel gives none of these to a client: a port that is free now is so in some seconds, too."""
TEST_PROCESSES = 16
"""Each has ports of its own: two that choose at the same time do not choose the same."""


def server_port() -> int:
    """A TCP port of the loopback interface that nothing listens on, and that nobody else will take: each is given once,
    as a server may start long after its port was chosen, or be down for a while."""
    return next(port for port in _ours() if free_port(port) == port)


@cache
def _ours() -> Iterator[int]:
    ours = BELOW_EPHEMERAL[_test_process() % TEST_PROCESSES :: TEST_PROCESSES]
    return iter(random.sample(ours, len(ours)))


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port where connections are refused until the end of the block: it is bound, and nobody listens."""
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        port: int = nobody.getsockname()[1]
        yield port


def _test_process() -> int:
    """Its number among those of pytest-xdist; 0 where there is one alone."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
