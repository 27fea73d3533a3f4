"""The monitor, and Celery workers for it, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

DEADLINE = 60.0
"""Seconds that anything may take on a slow machine."""
MONITOR = (sys.executable, "-c", "import sys; from loopwatch_monitor.command import main; sys.exit(main())")
"""The command line that starts a monitor, without its options."""


def until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """Waits for a condition; fails naming it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


class Monitor:
    """A running monitor. ``log``: its standard output, JSON a line."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    def lines(self) -> list[dict[str, object]]:
        """What it logged so far."""
        # One that is being written has no end yet.
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]

    def wait_until_started(self) -> None:
        """Waits for its port."""

        def started() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            ports = [line["port"] for line in self.lines() if line["event"] == "monitor_started"]
            self.url = f"http://127.0.0.1:{ports[0]}" if ports else ""
            return bool(ports)

        until(started, "the monitor")
        until(lambda: self.value("loopwatch_monitor_broker_up") == 1, "the monitor's connection")

    def get(self, path: str) -> tuple[int, str, str]:
        """Status, content type and text of a page."""
        try:
            response = urllib.request.urlopen(self.url + path, timeout=DEADLINE)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return response.status, response.headers["Content-Type"], response.read().decode()

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of one name, by their label values in the page's order."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[2])
            for sample in family.samples
            if sample.name == name
        }

    def value(self, name: str) -> float:
        """The sum of the samples of one name."""
        return sum(self.series(name).values())


@contextmanager
def running_monitor(broker: str, directory: Path, *options: str, program: Sequence[str] = MONITOR) -> Iterator[Monitor]:
    """A monitor on a free port."""
    log = directory / "monitor.log"
    command = [*program, "--broker-url", broker, "--host", "127.0.0.1", "--port", "0", *options]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        monitor = Monitor(process, log)
        try:
            monitor.wait_until_started()
            yield monitor
        finally:
            _end(process)


@contextmanager
def running_worker(
    broker: str, directory: Path, name: str, queues: str, *, events: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """A prefork worker of `monitor_tasks`, ready to work. ``events``: whether it sends those of its tasks."""
    log = directory / f"{name}.log"
    arguments = [
        "-P",
        "prefork",
        "-c",
        "2",
        "-l",
        "INFO",
        "-n",
        name,
        "-Q",
        queues,
        "--without-mingle",
        "--without-gossip",
    ]
    command = [sys.executable, "-m", "celery", "-A", "tests.integration.monitor_tasks", "worker", *arguments]
    environment = os.environ | {"TEST_BROKER": broker, "TEST_EVENTS": "1" if events else ""}
    root = Path(__file__).parents[2]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=root)
    with process:
        try:
            until(lambda: " ready." in log.read_text(), f"the worker {name}: {log}")
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
