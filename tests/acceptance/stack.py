"""Starts the application's processes for the acceptance tests, as production does, and stops them by their ids."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.process_groups import descendants

__all__ = [
    "ROOT",
    "START_TIMEOUT",
    "Page",
    "Running",
    "Stack",
    "eventually",
    "free_port",
    "parse_page",
    "scrape",
    "total",
]

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "app" / "scripts" / "entrypoint.sh"
START_TIMEOUT = 120.0
"""Seconds; two cores that are shared with other tests take their time to import everything."""

T = TypeVar("T")
Page = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""A page of metrics: (sample name, labels) to value."""


def free_port() -> int:
    """A TCP port of the loopback interface for a server of this test process's: the kernel gives it to nobody else.

    It stays bound here, without listening: with ``SO_REUSEADDR`` a server may bind it, too, and until then connections
    are refused.
    """
    keeper = socket.socket()
    atexit.register(keeper.close)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    port: int = keeper.getsockname()[1]
    return port


def eventually(question: Callable[[], T | None], *, timeout: float = 60.0, what: str = "") -> T:
    """Asks until the answer is true, and returns it; fails with what was answered last."""
    deadline = time.monotonic() + timeout
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or question!r}; the last answer was {answer!r}")
        time.sleep(0.05)


def parse_page(text: str) -> Page:
    """A page as prometheus_client reads it."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(url: str) -> Page:
    """The page at ``url``; empty when nothing answers there."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return parse_page(answer.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return {}


def total(page: Page, name: str, **labels: str) -> float:
    """The sum of a family's samples that carry ``labels``."""
    wanted = set(labels.items())
    return sum(value for (sample, held), value in page.items() if sample == name and wanted <= held)


@dataclass
class Running:
    """A process that was started, and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def children(self) -> list[int]:
        """The ids of the processes that come from it."""
        return descendants(self.process.pid)[1:]

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Ends the process, with its children where it does not end by itself; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            # Its children stand in its process group: it was started as the leader of one.
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


@dataclass
class Stack:
    """One environment and the processes that run in it. `running` stops what is left at the end."""

    directory: Path
    environment: dict[str, str]
    processes: list[Running] = field(default_factory=list)

    @classmethod
    @contextmanager
    def running(cls, directory: Path, **environment: str) -> Iterator[Stack]:
        """A stack with small pools and a local LLM server's address; ``environment`` has the rest."""
        defaults = {
            "WEB_CONCURRENCY": "1",
            "CELERY_LOGS_CONCURRENCY": "1",
            "CELERY_CONTENT_CONCURRENCY": "2",
            "CELERY_WORKFLOW_CONCURRENCY": "1",
            "API_PORT": str(free_port()),
            "MONITOR_PORT": str(free_port()),
        }
        stack = cls(directory, {**defaults, **environment})
        try:
            yield stack
        finally:
            stack.stop()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.environment['API_PORT']}"

    @property
    def monitor(self) -> str:
        return f"http://127.0.0.1:{self.environment['MONITOR_PORT']}"

    def start(self, name: str, *command: str, **extra: str) -> Running:
        """Starts a process with the stack's environment and the virtual environment's programs on PATH."""
        log = self.directory / f"{name}-{len(self.processes)}.log"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {
            **os.environ,
            **self.environment,
            **extra,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(name, process, log)
        self.processes.append(running)
        return running

    def role(self, role: str, **extra: str) -> Running:
        """Starts one role by the entrypoint, as production does."""
        return self.start(role, str(ENTRYPOINT), role, **extra)

    def start_llm(self, *options: str) -> Running:
        """Starts the local LLM server and points the stack to it."""
        port = str(free_port())
        self.environment["LLM_BASE_URL"] = f"http://127.0.0.1:{port}/v1"
        llm = self.start("llm", sys.executable, "-m", "app.llm_server", "--port", port, "--delay", "0.01", *options)
        self.wait_for_page(llm, f"http://127.0.0.1:{port}/v1/models")
        return llm

    def start_api(self, **extra: str) -> Running:
        """Starts the API (which makes the tables) and waits until it answers."""
        api = self.role("api", **extra)
        self.wait_for_page(api, f"{self.api}/health")
        return api

    def start_workers(self, *roles: str, **extra: str) -> list[Running]:
        """Starts the roles (all three by default) and waits until each worker is ready."""
        chosen = roles or ("celery_logs", "celery_content", "celery_workflow")
        workers = [self.role(role, **extra) for role in chosen]
        for worker in workers:
            self.wait_for_line(worker, " ready.")
        return workers

    def start_monitor(self) -> Running:
        """Starts the monitor and waits until it answers."""
        monitor = self.role("monitor")
        self.wait_for_page(monitor, f"{self.monitor}/health")
        return monitor

    def wait_for_line(self, running: Running, text: str, timeout: float = START_TIMEOUT) -> None:
        """Waits until the process has written ``text``."""
        eventually(
            lambda: self._alive(running) and text in running.output, timeout=timeout, what=f"{text!r} in the log"
        )

    def wait_for_page(self, running: Running, url: str, timeout: float = START_TIMEOUT) -> None:
        """Waits until something answers at ``url``, whatever its status."""
        eventually(lambda: self._alive(running) and _answers(url), timeout=timeout, what=url)

    def stop(self) -> None:
        """Stops everything that still runs, the last one first."""
        for running in reversed(self.processes):
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGTERM)
        for running in reversed(self.processes):
            running.stop()

    def _alive(self, running: Running) -> bool:
        code = running.process.poll()
        assert code is None, f"{running.name} ended with code {code}:\n{running.output[-4000:]}"
        return True


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True
