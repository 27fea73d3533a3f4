"""A Redis that a test may kill, freeze and start again, always on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from app.demo.servers import Server
from tests.integration.monitor_process import until
from tests.ports import server_port


class Broker:
    """The server. ``options``: as on the command line of ``redis-server``, without the dashes."""

    def __init__(self, binary: Path, directory: Path, **options: str) -> None:
        self.port = server_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._binary = binary
        common = {"bind": "127.0.0.1", "port": str(self.port), "save": "", "dir": str(directory)}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in (common | options).items()]
        self._command = ["redis-server", *[part for word in words for part in word.split("=", 1)]]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self._process = subprocess.Popen(self._command, executable=self._binary, stdout=subprocess.DEVNULL)
        until(self._answers, "redis")

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, such as SIGSTOP."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def do(self, *command: str) -> object:
        """The answer to a command."""
        with redis.Redis.from_url(self.url) as client:
            return client.execute_command(*command)

    def drop_subscribers(self) -> None:
        """What Redis does to a subscriber that is too slow."""
        self.do("CLIENT", "KILL", "TYPE", "pubsub")

    def _answers(self) -> bool:
        try:
            return bool(self.do("PING"))
        except redis.RedisError:
            return False


def redis_program(server: Server) -> Path:
    """The program that the shared server runs (which asks its own name what it is); that server itself must live."""
    return Path(f"/proc/{server.pid}/exe").resolve()


@contextmanager
def running_broker(server: Server, directory: Path, **options: str) -> Iterator[Broker]:
    """A Redis of the test's own, by the program of the shared one."""
    broker = Broker(redis_program(server), directory, **options)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
