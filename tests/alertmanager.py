"""Starts a real Alertmanager on a free port, and asks its API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ports import server_port

__all__ = ["Alertmanager", "alertmanager_program", "running_alertmanager"]

STARTUP_SECONDS = 60.0


@dataclass(frozen=True)
class Alertmanager:
    """One that runs. ``url`` without a slash at its end."""

    url: str
    pid: int

    def post(self, *alerts: dict[str, str]) -> None:
        """Makes alerts with these labels fire."""
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60):
            pass

    def alerts(self) -> list[dict[str, Any]]:
        """All alerts, as its API tells them: ``labels``, ``annotations``, ``receivers``, ``status.inhibitedBy``."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=60) as response:
            answer: list[dict[str, Any]] = json.load(response)
        return answer


def alertmanager_program() -> str:
    """The path of the program; where it is missing the test is skipped, or fails where ``CI`` is set."""
    for name in ("prometheus-alertmanager", "alertmanager"):
        program = shutil.which(name)
        if program is not None:
            return program
    missing = "Alertmanager is missing: apt-get install prometheus-alertmanager"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def running_alertmanager(configuration: Path, directory: Path) -> Iterator[Alertmanager]:
    """An Alertmanager of one, with this configuration; its data and its log are in the directory.

    Raises:
        RuntimeError: it ended, or did not answer in time; with its log.
    """
    address = f"127.0.0.1:{server_port()}"
    log = directory / "alertmanager.log"
    command = [
        alertmanager_program(),
        f"--config.file={configuration}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(f"http://{address}", process, log)
        yield Alertmanager(f"http://{address}", process.pid)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Alertmanager ended with {process.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"Alertmanager was not ready in {STARTUP_SECONDS} s:\n{log.read_text()}")
