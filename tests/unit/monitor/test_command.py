"""`loopwatch monitor`: a bad start is one line on stderr and exit code 2."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from loopwatch_monitor.command import main
from tests.ports import refusing_port


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """The command configures the logs of its process, which here is pytest's."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "BROKER_TRANSPORT_OPTION", "HOST", "PORT", "BUCKETS"):
        monkeypatch.delenv(f"LOOPWATCH_{name}", raising=False)
        monkeypatch.delenv(f"CE_{name}", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("loopwatch monitor: ")
    return line


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--broker-url (LOOPWATCH_BROKER_URL): is missing"),
        (["--broker-url", "nonsense"], "--broker-url"),
        (["--broker-url", "redis://h", "--port", "many"], "--port"),
        (["--broker-url", "redis://h/many"], "--broker-url (LOOPWATCH_BROKER_URL): Redis' database must be a number"),
        (["--broker-url", "sentinel://h"], "master_name=NAME"),
        (["--broker-url", "rediss://h?ssl_cert_reqs=maybe"], "ssl_cert_reqs must be"),
        (["--broker-url", "redis://h", "--event-buffer-bytes", "1"], "--event-buffer-bytes"),
        (["--broker-url", "redis://h", "--buckets", "2,1"], "--buckets"),
        (["--broker-url", "redis://h", "--queue-wait-buckets", "x"], "--queue-wait-buckets"),
        (["--broker-url", "redis://h", "--static-label", "x"], "--static-label"),
        (["--broker-url", "redis://h", "--broker-transport-option", "x"], "--broker-transport-option"),
        (["--broker-url", "redis://h", "--frobnicate"], "--frobnicate"),
        (
            ["--broker-url", "redis://h", "--web.listen-address", "9808"],
            "--web.listen-address (LOOPWATCH_WEB_LISTEN_ADDRESS): '9808' must be written like",
        ),
        (
            ["--broker-url", "redis://h", "--web.config.file", "/nowhere.yml"],
            "--web.config.file (LOOPWATCH_WEB_CONFIG_FILE): /nowhere.yml: cannot be read: No such file",
        ),
        (["serve"], "unexpected extra argument"),
        (
            ["--broker-url", "redis://h", "--broker-ssl-option", "cafile=x"],
            "--broker-ssl-option (LOOPWATCH_BROKER_SSL_",
        ),
        (
            ["--broker-url", "amqp://h", "--broker-ssl-option", "ca_certs=/nowhere.pem"],
            "--broker-ssl-option (LOOPWATCH_BROKER_SSL_OPTION): ssl_ca_certs=/nowhere.pem: No such file",
        ),
        (["--broker-url", "rediss://h?ssl_cafile=x"], "--broker-url (LOOPWATCH_BROKER_URL): the TLS option ssl_cafile"),
        (["--broker-url", "memory://", "--host", "192.0.2.1"], "--host (LOOPWATCH_HOST): cannot listen on 192.0.2.1"),
    ],
)
def test_settings_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], named: str) -> None:
    assert named in refused(capsys, *argv)


def test_a_broker_that_cannot_be_reached(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody:  # bound, not listening: a connection is refused
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://:secret@127.0.0.1:{nobody.getsockname()[1]}/0"
        line = refused(capsys, "--broker-url", url)
    assert "--broker-url" in line
    assert "Start the broker or correct the URL" in line
    assert "secret" not in line


def test_blanks_around_the_url(capsys: pytest.CaptureFixture[str]) -> None:
    with refusing_port() as port:
        line = refused(capsys, "--broker-url", f" redis://127.0.0.1:{port}/0\n")
    assert f"cannot reach redis://127.0.0.1:{port}/0: [Errno" in line


@pytest.mark.parametrize("prefix", ["LOOPWATCH", "CE"])
def test_settings_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv(f"{prefix}_BROKER_URL", "memory://")
    monkeypatch.setenv(f"{prefix}_PORT", "77777")
    assert "--port (LOOPWATCH_PORT): must be from 0 to 65535, not 77777" in refused(capsys)


def test_a_space_in_a_variable_parts_options_and_shows_no_rest_of_a_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CE_BROKER_TRANSPORT_OPTION", 'master_name=main sentinel_kwargs={"password": "secret"}')
    line = refused(capsys, "--broker-url", "sentinel://h")
    assert "--broker-transport-option (LOOPWATCH_BROKER_TRANSPORT_OPTION): must be written as KEY=VALUE; 3 of 3" in line
    assert "spaces part them" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("family", "hosts", "shown"),
    [
        (socket.AF_INET, ["127.0.0.1"], "127.0.0.1"),
        (socket.AF_INET6, ["::1", "[::1]"], "[::1]"),
    ],
)
def test_an_address_that_is_taken(
    capsys: pytest.CaptureFixture[str], family: socket.AddressFamily, hosts: list[str], shown: str
) -> None:
    with socket.socket(family) as taken:
        taken.bind((hosts[0], 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for host in hosts:
            assert main(["--broker-url", "memory://", "--host", host, "--port", port]) == 2
            assert f"--port (LOOPWATCH_PORT): cannot listen on {shown}:{port}: " in capsys.readouterr().err


def test_addresses_that_are_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        addresses = ("--web.listen-address", "127.0.0.1:0", "--web.listen-address", f"unix://{path}")
        line = refused(capsys, "--broker-url", "memory://", *addresses)
    assert f"--web.listen-address (LOOPWATCH_WEB_LISTEN_ADDRESS): cannot listen on unix://{path}: " in line


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "LOOPWATCH_BROKER_URL" in shown
    assert "CE_BROKER_URL" in shown
