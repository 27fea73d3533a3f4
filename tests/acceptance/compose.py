"""Starts the services of docker-compose.yml on this machine: the same commands, environment, files and health checks.

Each container becomes a process; `compose_rules` declares what differs, `compose_places` translates names, ports and
paths. The order is that of the health dependencies, and the checks run as often as the file says.

    with Compose.up(environment={"WEB_CONCURRENCY": "1"}) as stack:
        stack.url("prometheus"); stack.logs("monitor"); stack.start("celery_content_global"); stack.kill("redis")
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

from app.demo.servers import Cluster
from tests.acceptance.compose_file import ComposeError, Service, read_compose
from tests.acceptance.compose_places import Change, Places
from tests.acceptance.compose_rules import NOT_HERE, image_of
from tests.acceptance.process_groups import Warden, answer
from tests.acceptance.stack import ROOT, Running

__all__ = ["Change", "Compose"]

T = TypeVar("T")


class Compose:
    """The services on this machine; `up` makes one. ``skipped`` has the reason for each that cannot run here."""

    def __init__(
        self, directory: Path, warden: Warden, variables: Mapping[str, str], files: Mapping[str, Change]
    ) -> None:
        self.services = read_compose(ROOT / "docker-compose.yml", variables)
        self.skipped = {
            name: NOT_HERE[image]
            for name, service in self.services.items()
            if (image := service.image.partition(":")[0]) in NOT_HERE
        }
        here = [service for name, service in self.services.items() if name not in self.skipped]
        self._images = {service.name: image_of(service, ROOT) for service in here}
        self._places = Places(ROOT, directory, self.services, self._images, files)
        self._warden = warden
        self._running: dict[str, Running] = {}
        self._healthy: set[str] = set()
        self._clusters: dict[str, Cluster] = {}
        self._aborted = threading.Event()

    @classmethod
    @contextmanager
    def up(
        cls,
        *,
        profiles: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        files: Mapping[str, Change] | None = None,
    ) -> Iterator[Compose]:
        """All services of no profile and of these, healthy; they are stopped at the end.

        Args:
            environment: the shell's variables, which stand in the file as ``${NAME:-default}``.
            files: what stands for a mounted file or directory, by its name in the file (``./dashboards/...``).

        Raises:
            ComposeError: a service ended, or did not become healthy; the message ends with its log.
        """
        wanted = {*profiles}
        # Not pytest's tmp_path: it is closed to other users, and PostgreSQL runs as one when we are root.
        with tempfile.TemporaryDirectory(prefix="loopwatch-compose-") as name, Warden() as warden:
            Path(name).chmod(0o755)
            stack = cls(Path(name), warden, environment or {}, files or {})
            try:
                stack.start(*(s.name for s in stack.services.values() if not s.profiles or wanted & {*s.profiles}))
                yield stack
            finally:
                stack.stop()

    # ------------------------------------------------------------ what a test does

    def start(self, *names: str) -> None:
        """Starts services, also of a profile, with what they need, and waits until all are healthy."""
        wanted: dict[str, tuple[str, ...]] = {}
        left = [name for name in names if name not in self.skipped]
        while left:
            name = left.pop()
            wanted[name] = self.services[name].needs
            left += [other for other in wanted[name] if other not in wanted]
        self._aborted.clear()
        self._in_order(wanted, self._bring_up)

    def stop(self, *names: str) -> dict[str, int]:
        """Stops services (all), those first that need others; returns the exit codes.

        -9 is that of a service which did not end within its grace period.
        """
        chosen = set(names or self._running) & self._running.keys()
        waits = {name: [other for other in chosen if name in self.services[other].needs] for name in chosen}
        try:
            return self._in_order(waits, self._bring_down)
        finally:
            for name in chosen & self._running.keys():
                self.kill(name)

    def kill(self, name: str) -> None:
        """Kills a service with all its processes, as when its container is out of memory."""
        process = self._running[name].process
        process.kill()
        process.wait()
        self._forget(name)

    def check(self, name: str) -> str:
        """Runs the service's health check once; returns what is wrong, or an empty text."""
        health = self.services[name].health
        if health is None:
            return ""
        program, *words = health.command
        command = self._places.words(name, [program, *self._images[name].clients.get(program, ()), *words])
        return answer(command, cwd=ROOT, environment=self._environment(name), timeout=health.timeout)

    def url(self, name: str, port: int | None = None) -> str:
        """The address of a service's page; ``port`` is the container's, where it has several."""
        return f"http://127.0.0.1:{self._places.ports.of(name, port)}"

    def logs(self, name: str) -> str:
        """What the service has written so far, in all its runs."""
        path = self._places.log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def pid(self, name: str) -> int:
        """The service's first process."""
        return self._running[name].process.pid

    @property
    def running(self) -> list[str]:
        """The services that were started, and not stopped."""
        return [*self._running]

    # ------------------------------------------------------------ one service

    def _bring_up(self, name: str) -> None:
        running = self._running.get(name)
        if running is None or running.process.poll() is not None:
            self._healthy.discard(name)
            self._running[name] = self._launch(self.services[name])
        if name not in self._healthy:
            self._wait_until_healthy(self.services[name])
            self._healthy.add(name)

    def _launch(self, service: Service) -> Running:
        name, image = service.name, self._images[service.name]
        self._places.lay_files(name)
        entrypoint = image.entrypoint if service.entrypoint is None else service.entrypoint
        command = [*entrypoint, *(service.command or image.command), *image.arguments]
        identity: Mapping[str, Any] = {}
        if service.image.startswith("postgres:"):
            cluster = self._cluster(service)
            identity = cluster.identity
            command = [*cluster.command(self._places.ports.of(name)), *command[1:]]
        with self._places.log(name).open("ab") as output:
            process = subprocess.Popen(
                self._places.words(name, command),
                cwd=ROOT if service.dockerfile else self._places.directory(name),
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )
        self._warden.add(process.pid)
        return Running(name, process, self._places.log(name))

    def _bring_down(self, name: str) -> int:
        service = self.services[name]
        code = self._running[name].stop(signal.Signals[service.stop_signal], service.stop_grace_period)
        self._forget(name)
        return code

    def _forget(self, name: str) -> None:
        group = self._running.pop(name).process.pid
        # A container's other processes end with its first one.
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self._warden.drop(group)
        self._healthy.discard(name)

    def _wait_until_healthy(self, service: Service) -> None:
        health = service.health
        if health is None:
            return
        began, failures, wrong = time.monotonic(), 0, ""
        while failures < health.retries:
            starting = time.monotonic() - began < health.start_period
            if self._aborted.wait(health.start_interval if starting else health.interval):
                raise ComposeError(f"{service.name}: given up, as another service did not start")
            code = self._running[service.name].process.poll()
            if code is not None:
                raise ComposeError(f"{service.name} ended with code {code}:\n{self.logs(service.name)[-4000:]}")
            wrong = self.check(service.name)
            if not wrong:
                return
            failures += not starting
        raise ComposeError(f"{service.name} is not healthy: {wrong}\n{self.logs(service.name)[-4000:]}")

    def _environment(self, name: str) -> dict[str, str]:
        environment = self._places.environment(name)
        if name in self._clusters:
            environment["PATH"] = f"{self._clusters[name].binaries}:{environment['PATH']}"
        return environment

    def _cluster(self, service: Service) -> Cluster:
        """What the image's entrypoint makes of the environment, once: a superuser, and a database of that name."""
        if service.name not in self._clusters:
            given, directory = service.environment, self._places.directory(service.name)
            user = given["POSTGRES_USER"]
            cluster = Cluster.make(directory, user=user, password=given["POSTGRES_PASSWORD"])
            cluster.create_database(given.get("POSTGRES_DB", user))
            self._clusters[service.name] = cluster
        return self._clusters[service.name]

    def _in_order(self, before: Mapping[str, Iterable[str]], act: Callable[[str], T]) -> dict[str, T]:
        """Acts on each, at once where it may be, after those that come before it."""
        futures: dict[str, Future[T]] = {}

        def turn(name: str) -> T:
            for other in before[name]:
                futures[other].result()
            return act(name)

        if not before:
            return {}
        with ThreadPoolExecutor(len(before)) as pool:
            try:
                # In this order, whom it waits for is there, and has a thread.
                for name in TopologicalSorter(before).static_order():
                    futures[name] = pool.submit(turn, name)
                return {name: future.result() for name, future in futures.items()}
            except BaseException:
                self._aborted.set()
                raise
