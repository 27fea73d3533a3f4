"""Redis in the shapes that a plain one does not have: Sentinel, a cluster of one node, TLS, a Unix socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.ports import server_port

__all__ = ["RedisProcess", "redis_process", "sentinel_process", "wait_until"]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Waits for it, also where a server does not answer yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.02)


class RedisProcess:
    """One ``redis-server``; ``client`` asks it as an administrator would."""

    def __init__(self, directory: Path, port: int, settings: list[str], *arguments: str) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            missing = "redis-server is missing: install the Debian package redis-server"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
        directory.mkdir(parents=True)
        self.port = port
        self._file = directory / "redis.conf"
        self._file.write_text("\n".join(["bind 127.0.0.1", f'dir "{directory}"', *settings, ""]))
        self._command = [binary, str(self._file), *arguments]
        self.client: redis.Redis = redis.Redis(port=port)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.client.ping, "an answer to PING")

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.client.close()
        self.kill()


@contextmanager
def redis_process(directory: Path, *settings: str) -> Iterator[RedisProcess]:
    """A Redis without persistence and password on a free port of the loopback interface."""
    port = server_port()
    process = RedisProcess(
        directory, port, ['save ""', "appendonly no", "repl-diskless-sync-delay 0", *settings, f"port {port}"]
    )
    try:
        yield process
    finally:
        process.close()


@contextmanager
def sentinel_process(directory: Path, master: RedisProcess, *, quorum: int) -> Iterator[RedisProcess]:
    """A sentinel that watches ``master`` as ``mymaster``. It gives it up after a minute: one that has to wait for a
    processor is not lost. Who kills it tells the sentinel to be impatient (``SENTINEL SET``)."""
    port = server_port()
    settings = [
        f"port {port}",
        f"sentinel monitor mymaster 127.0.0.1 {master.port} {quorum}",
        "sentinel down-after-milliseconds mymaster 60000",
        "sentinel failover-timeout mymaster 5000",
    ]
    process = RedisProcess(directory, port, settings, "--sentinel")
    try:
        yield process
    finally:
        process.close()
