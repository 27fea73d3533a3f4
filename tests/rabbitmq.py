"""A real RabbitMQ for the tests: a node of its own with an epmd of its own, gone when it is closed.

It listens on free ports of the loopback interface; its two users have one random password, and there is no guest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from app.demo.servers import ServerError, ServerMissingError
from tests.integration.certificates import self_signed
from tests.ports import server_port

__all__ = ["MONITOR", "MONITORS_OWN", "USER", "VHOSTS", "RabbitMQ", "start_rabbitmq"]

VHOSTS = 16
"""Made at the start (``t0``, ``t1`` ...): making one later costs `rabbitmqctl` a second."""
START_TIMEOUT = 180.0
"""Seconds; Erlang needs 5 on a quiet machine, and took 41 on one with four times as many processes as cores."""
HOST = "127.0.0.1"
USER = "loopwatch"
MONITOR = "monitor"
MONITORS_OWN = r"^(celeryev.*|celery\.pidbox|(.+\.)?reply\.celery\.pidbox)$"
"""What a user who is a monitor and nothing else may configure, write and read, as docs/monitor.md says."""
# Debian's own command changes to the user rabbitmq, and wants to be root for that; this is the one beneath.
BINARY = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitMQ:
    """A node that a test may kill, freeze and start again, always on the same port."""

    def __init__(self, directory: Path) -> None:
        epmd = shutil.which("epmd")
        if not BINARY.exists() or epmd is None:
            raise ServerMissingError("RabbitMQ is missing: install the Debian package rabbitmq-server")
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.tls_port = server_port(), server_port()
        self.certificate = self_signed(directory)
        self.password = secrets.token_urlsafe(16)
        self._directory = directory
        self._epmd_program = epmd
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._write_settings()
        self._environment = self._make_environment()

    def url(self, vhost: str = "t0") -> str:
        """Where it is, password included."""
        return f"amqp://{USER}:{self.password}@{HOST}:{self.port}/{vhost}"

    def tls_url(self, vhost: str = "t0") -> str:
        """The same over TLS; `certificate` is what its client must trust."""
        return f"amqps://{USER}:{self.password}@{HOST}:{self.tls_port}/{vhost}"

    def start(self) -> None:
        """Starts the node (and, the first time, its epmd) and waits until it takes connections."""
        if self._epmd is None:
            # In the foreground, by us: one that Erlang starts is a daemon, and outlives the node.
            self._epmd = self._spawn([self._epmd_program])
        self._node = self._spawn([str(BINARY)])
        deadline = time.monotonic() + START_TIMEOUT
        while not self._accepts():
            if self._node.poll() is not None or time.monotonic() > deadline:
                self.close()
                log = (self._directory / "log").read_text(errors="replace")
                raise ServerError(f"RabbitMQ did not start; its log ends with:\n{log[-2000:]}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Sends the node a signal, such as SIGSTOP."""
        assert self._node is not None
        os.killpg(self._node.pid, number)

    def kill(self) -> None:
        """Ends the node at once. What it had stored stays for the next start."""
        _end(self._node)
        self._node = None

    def close(self) -> None:
        """Ends the node and its epmd. May be called twice."""
        self.kill()
        _end(self._epmd)
        self._epmd = None

    def _accepts(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )

    def _make_environment(self) -> dict[str, str]:
        here = self._directory
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(here),  # where Erlang makes its cookie
            "ERL_EPMD_PORT": str(server_port()),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"loopwatch-{secrets.token_hex(4)}@localhost",
            "RABBITMQ_DIST_PORT": str(server_port()),
            "RABBITMQ_CONF_ENV_FILE": str(here / "none"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here),
            "RABBITMQ_LOGS": "-",
            # The script then becomes the node instead of waiting for it, and signals reach it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _write_settings(self) -> None:
        salt = secrets.token_bytes(4)
        digest = hashlib.sha256(salt + self.password.encode()).digest()
        password = {
            "password_hash": base64.b64encode(salt + digest).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
        }
        names = [f"t{number}" for number in range(VHOSTS)]
        rights = {USER: ".*", MONITOR: MONITORS_OWN}
        definitions = {
            "users": [{"name": USER, "tags": "administrator"} | password, {"name": MONITOR, "tags": ""} | password],
            "vhosts": [{"name": name} for name in names],
            "permissions": [
                {"vhost": name, "user": user, **dict.fromkeys(("configure", "write", "read"), pattern)}
                for name in names
                for user, pattern in rights.items()
            ],
        }
        here = self._directory
        (here / "definitions.json").write_text(json.dumps(definitions))
        (here / "plugins").write_text("[].\n")
        settings = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "listeners.ssl.1": f"{HOST}:{self.tls_port}",
            "load_definitions": here / "definitions.json",
            "ssl_options.cacertfile": self.certificate,
            "ssl_options.certfile": self.certificate,
            "ssl_options.keyfile": self.certificate,
        }
        (here / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))


def start_rabbitmq(directory: Path) -> RabbitMQ:
    """Starts RabbitMQ with everything that it keeps in ``directory``.

    Raises:
        ServerMissingError: the Debian package rabbitmq-server is not installed.
        ServerError: it did not start.
    """
    server = RabbitMQ(directory)
    server.start()
    return server


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
