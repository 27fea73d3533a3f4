"""The monitor as a process: what it never tells, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis

from app.demo.servers import Server
from loopwatch_monitor.negotiate import Format
from tests.integration.certificates import self_signed
from tests.integration.monitor_process import MONITOR, Monitor, running_monitor, until

PASSWORD = "s3cr3t/p:ss w&rd"
PAGES = ("/", "/metrics", "/health", "/ready", "/live", "/nowhere")
SOON = 40.0
"""Seconds. It takes a fraction of one; what it must not wait for (a client, aiohttp's own 60) takes longer."""


class Broker:
    """A Redis with a password."""

    def __init__(self, server: Server) -> None:
        self.place = urlsplit(server.url)
        self.client = redis.Redis.from_url(server.url)
        self.set_password(PASSWORD)

    def url(self, password: str = PASSWORD) -> str:
        return f"redis://:{quote(password, safe='')}@{self.place.hostname}:{self.place.port}/0"

    def set_password(self, password: str) -> None:
        self.client.config_set("requirepass", password)
        self.client.auth(password)

    def drop_everybody(self) -> None:
        for kind in ("pubsub", "normal"):
            self.client.client_kill_filter(_type=kind)


@pytest.fixture
def broker(own_redis: Server) -> Iterator[Broker]:
    broker = Broker(own_redis)
    yield broker
    broker.client.close()


def assert_nothing_is_told(text: str) -> None:
    for secret in (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), repr(PASSWORD)[1:-1]):
        assert secret not in text


def every_page(monitor: Monitor) -> str:
    pages = [monitor.get(path) for path in PAGES]
    asked = urllib.request.Request(f"{monitor.url}/metrics", headers={"Accept": Format.OPENMETRICS.value})
    with urllib.request.urlopen(asked) as response:
        return f"{pages} {response.read().decode()} {response.headers}"


def test_the_brokers_password_is_told_nobody(broker: Broker, tmp_path: Path) -> None:
    """Not while all is well, and not while the password is changed and every connection fails."""
    with running_monitor(broker.url(), tmp_path, "--log-level", "DEBUG") as monitor:
        seen = every_page(monitor)
        assert '"status": "ok"' in seen
        broker.set_password("another one")
        broker.drop_everybody()
        until(lambda: not monitor.value("loopwatch_monitor_broker_up"), "the loss of the broker")
        until(lambda: monitor.get("/health")[0] == 503, "the probe's answer")
        seen += every_page(monitor)
        broker.set_password(PASSWORD)
        until(lambda: monitor.value("loopwatch_monitor_broker_up") == 1, "the broker")
        seen += every_page(monitor)
    assert_nothing_is_told(seen)
    assert "broker_lost" in monitor.log.read_text()
    assert_nothing_is_told(monitor.log.read_text())


def test_nor_is_a_wrong_one_at_the_start(broker: Broker) -> None:
    broker.set_password("another one")
    result = subprocess.run(
        [*MONITOR, "--broker-url", broker.url(), "--log-level", "DEBUG"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "--broker-url" in result.stderr
    assert_nothing_is_told(result.stdout + result.stderr)


def test_a_web_config_that_cannot_be_used_is_one_line_and_exit_code_2(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text("basic_auth_users:\n  ann: hunter2\n")
    result = subprocess.run(
        [*MONITOR, "--broker-url", redis_url, "--web.config.file", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "--web.config.file (LOOPWATCH_WEB_CONFIG_FILE): " in line
    assert "web.yml, line 2: basic_auth_users.ann must be a bcrypt hash" in line
    assert "hunter2" not in line


def test_a_web_config_that_breaks_shows_in_a_metric(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text("")
    with running_monitor(redis_url, tmp_path, "--web.config.file", str(path)) as monitor:
        name = "loopwatch_monitor_web_config_last_reload_successful"
        assert monitor.value(name) == 1
        path.write_text("nonsense: 1\n")
        until(lambda: monitor.value(name) == 0, "the metric")
        path.write_text("# sense\n")
        until(lambda: monitor.value(name) == 1, "the metric")


def test_sigterm_ends_it_before_the_broker_has_answered(tmp_path: Path) -> None:
    """By its own will: to process 1 of a container a signal that it has not asked for is not sent. And at once: Python
    would take apart, object by object, what it knows."""
    code = (
        "import atexit, loopwatch_monitor.command as c, loopwatch_monitor.intake.redis_link as link; "
        # Or it might give up the broker before we have sent the signal.
        "link.CONNECT_TIMEOUT = 600; atexit.register(print, 'taken apart'); c.main()"
    )
    with socket.socket() as silent, (tmp_path / "log").open("w") as log:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        process = subprocess.Popen([sys.executable, "-c", code, "--broker-url", url], stdout=log, stderr=log)
        connected, _ = silent.accept()
        with connected:
            assert connected.recv(4)  # it asks, and waits
            process.send_signal(signal.SIGTERM)
            assert process.wait(SOON) == 0
    assert (tmp_path / "log").read_text() == ""


def test_sigterm_ends_it_whoever_is_connected(redis_url: str, tmp_path: Path) -> None:
    pem, config, path = self_signed(tmp_path), tmp_path / "web.yml", tmp_path / "monitor.sock"
    config.write_text("")
    addresses = ("--web.listen-address", "127.0.0.1:0", "--web.listen-address", f"unix://{path}")
    with (
        running_monitor(redis_url, tmp_path, *addresses, "--web.config.file", str(config)) as monitor,
        ExitStack() as clients,
    ):
        place = urlsplit(monitor.url)
        assert place.port is not None

        def connect() -> socket.socket:
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((place.hostname, place.port))
            return client

        connect()
        keeping, scraping, dawdling = connect(), connect(), connect()
        keeping.sendall(b"GET /live HTTP/1.1\r\nHost: m\r\n\r\n")
        assert keeping.recv(15) == b"HTTP/1.1 200 OK"
        # Many pages, none of which is read: one of them is under way.
        scraping.sendall(b"GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n" * 500)
        assert scraping.recv(15) == b"HTTP/1.1 200 OK"
        dawdling.sendall(b"GET /metrics HT")
        config.write_text(f"tls_server_config: {{cert_file: {pem}, key_file: {pem}}}")
        connect()  # and a TLS handshake that never begins
        monitor.process.send_signal(signal.SIGTERM)
        assert monitor.process.wait(SOON) == 0
        assert monitor.lines()[-1]["event"] == "monitor_stopped"
        assert not path.exists()
