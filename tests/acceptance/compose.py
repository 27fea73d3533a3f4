"""Starts the services of docker-compose.yml on this machine: the same commands, environment, files and health checks.

Each container becomes a process; `compose_rules` declares what differs, `compose_places` translates names, ports and
paths. The order is that of the health dependencies, the checks run as often as the file says.

    with Compose.up(environment={"WEB_CONCURRENCY": "1"}) as stack:
        stack.url("prometheus"); stack.logs("monitor"); stack.start("celery_content_global"); stack.kill("redis")
"""

from __future__ import annotations

import os
import shutil
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

from app.demo.servers import Cluster, make_cluster
from tests.acceptance.compose_file import ComposeError, Health, Service, read_compose
from tests.acceptance.compose_places import Ports, translate_paths
from tests.acceptance.compose_rules import NOT_HERE, Image, image_of, process_environment
from tests.acceptance.process_groups import Warden
from tests.acceptance.stack import ROOT, Running

__all__ = ["Change", "Compose"]

Change = Path | Callable[[str], str]
"""What stands for a mounted file or directory: another one, or what is made of the text of each of its files."""

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
        if unknown := files.keys() - {mount.source for service in self.services.values() for mount in service.mounts}:
            raise ComposeError(f"files: nothing mounts {', '.join(sorted(unknown))}")
        here = {name: service for name, service in self.services.items() if name not in self.skipped}
        self._images = {name: image_of(service, ROOT) for name, service in here.items()}
        self._ports = Ports(self.services, self._images)
        self._directory = directory
        self._warden = warden
        self._files = files
        self._running: dict[str, Running] = {}
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
        # Not pytest's tmp_path: it is closed to other users, and PostgreSQL runs as one when we are root.
        with tempfile.TemporaryDirectory(prefix="loopwatch-compose-") as name:
            Path(name).chmod(0o755)
            warden = Warden()
            try:
                stack = cls(Path(name), warden, environment or {}, files or {})
                wanted = set(profiles)
                try:
                    stack.start(*(s.name for s in stack.services.values() if not s.profiles or wanted & {*s.profiles}))
                    yield stack
                finally:
                    stack.stop()
            finally:
                warden.close()

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
        """Kills a service with all its processes, as when the container is out of memory."""
        running = self._running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
        self._warden.drop(running.process.pid)

    def check(self, name: str) -> str:
        """Runs the service's health check once; returns what is wrong, or an empty text."""
        health, image = self.services[name].health, self._images[name]
        if health is None:
            return ""
        program, *words = health.command
        command = [program, *image.clients.get(program, ()), *words]
        return self._ask(self._translated(name, command), health, self._environment(name))

    def url(self, name: str, port: int | None = None) -> str:
        """The address of a service's page; ``port`` is the container's, where it has several."""
        return f"http://127.0.0.1:{self._ports.of(name, port)}"

    def logs(self, name: str) -> str:
        """What the service has written so far, in all its runs."""
        path = self._log(name)
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
        service = self.services[name]
        running = self._running.get(name)
        if running is None or running.process.poll() is not None:
            self._running[name] = self._launch(service)
        self._wait_until_healthy(service)

    def _launch(self, service: Service) -> Running:
        image, directory = self._images[service.name], self._own(service.name)
        directory.mkdir(exist_ok=True)
        identity: Mapping[str, Any] = {}
        command = [*self._entrypoint(service, image), *(service.command or image.command), *image.arguments]
        if service.image.startswith("postgres:"):
            cluster = self._cluster(service)
            identity = cluster.identity
            command = [*cluster.command(self._ports.of(service.name)), *command[1:]]
        self._lay_files(service)
        with self._log(service.name).open("ab") as output:
            process = subprocess.Popen(
                self._translated(service.name, command),
                cwd=ROOT if service.dockerfile else directory,
                env=self._environment(service.name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )
        self._warden.add(process.pid)
        return Running(service.name, process, self._log(service.name))

    def _bring_down(self, name: str) -> int:
        service, running = self.services[name], self._running[name]
        code = running.stop(signal.Signals[service.stop_signal], service.stop_grace_period)
        self._warden.drop(running.process.pid)
        del self._running[name]
        return code

    def _entrypoint(self, service: Service, image: Image) -> tuple[str, ...]:
        return image.entrypoint if service.entrypoint is None else service.entrypoint

    def _cluster(self, service: Service) -> Cluster:
        """What the image's entrypoint script makes of the environment: a superuser, and a database of that name."""
        if service.name not in self._clusters:
            user = service.environment["POSTGRES_USER"]
            cluster = make_cluster(
                self._own(service.name), user=user, password=service.environment["POSTGRES_PASSWORD"]
            )
            cluster.create_database(service.environment.get("POSTGRES_DB", user))
            self._clusters[service.name] = cluster
        return self._clusters[service.name]

    # ------------------------------------------------------------ health

    def _wait_until_healthy(self, service: Service) -> None:
        health = service.health
        if health is None:
            return
        began, failures, answer = time.monotonic(), 0, ""
        while failures < health.retries:
            starting = time.monotonic() - began < health.start_period
            if self._aborted.wait(health.start_interval if starting else health.interval):
                raise ComposeError(f"{service.name}: given up, as another service did not start")
            code = self._running[service.name].process.poll()
            if code is not None:
                raise ComposeError(f"{service.name} ended with code {code}:\n{self.logs(service.name)[-4000:]}")
            answer = self.check(service.name)
            if not answer:
                return
            failures += not starting
        raise ComposeError(f"{service.name} is not healthy: {answer}\n{self.logs(service.name)[-4000:]}")

    def _ask(self, command: list[str], health: Health, environment: Mapping[str, str]) -> str:
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=health.timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"no answer within {health.timeout:g} s"
        said = output.decode(errors="replace").strip()
        return f"code {process.returncode}: {said}" if process.returncode else ""

    # ------------------------------------------------------------ places

    def _own(self, name: str) -> Path:
        return self._directory / name

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _places(self, service: Service) -> dict[str, Path]:
        """Where the container's paths are."""
        return {
            mount.target: self._own(service.name) / "files" / mount.target.lstrip("/")
            if mount.is_file
            else self._directory / "volumes" / mount.source
            for mount in service.mounts
        }

    def _environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        given = process_environment(service, self._images[name], ROOT, self._own(name))
        environment = {key: self._ports.translate(name, text) for key, text in given.items()}
        if name in self._clusters:
            environment["PATH"] = f"{self._clusters[name].binaries}:{environment['PATH']}"
        return environment

    def _translated(self, name: str, words: Iterable[str]) -> list[str]:
        places = self._places(self.services[name])
        return [translate_paths(word, places) for word in self._ports.translate_words(name, words)]

    def _lay_files(self, service: Service) -> None:
        """Copies what is mounted, translated."""
        places = self._places(service)
        for mount in service.mounts:
            place = places[mount.target]
            if not mount.is_file:
                place.mkdir(parents=True, exist_ok=True)
                continue
            change = self._files.get(mount.source)
            source = change if isinstance(change, Path) else ROOT / mount.source
            shutil.rmtree(place, ignore_errors=True)
            for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
                if path.is_file():
                    text = path.read_text()
                    text = change(text) if callable(change) else text
                    target = place / path.relative_to(source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(translate_paths(self._ports.translate(service.name, text), places))

    # ------------------------------------------------------------ order

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
