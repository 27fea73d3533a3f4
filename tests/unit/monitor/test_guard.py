"""A web configuration that changes while it is in use."""

from __future__ import annotations

import os
from pathlib import Path

import bcrypt
import pytest
from structlog.testing import capture_logs

from loopwatch_monitor import guard
from loopwatch_monitor.guard import Guard
from loopwatch_monitor.webconfig import WebConfigError
from tests.integration.certificates import self_signed

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(5))


def write(path: Path, text: str) -> None:
    """As an editor does: another file under the same name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_a_change_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    write(path, "")
    found = Guard(path)
    assert not found.current().users
    write(path, f"basic_auth_users: {{ann: {HASH.decode()}}}")
    assert list(found.current().users) == ["ann"]
    write(path, "rate_limit: {interval: 1h, burst: 2}")
    assert [found.admits() for _ in range(3)] == [True, True, False]
    write(path, "rate_limit: {interval: 1h, burst: 2}\nhttp_server_config: {headers: {X-XSS-Protection: '0'}}")
    assert not found.admits(), "another change must not fill the bucket"


def test_a_new_certificate_is_taken_up(tmp_path: Path) -> None:
    pem, path = self_signed(tmp_path), tmp_path / "web.yml"
    write(path, f"tls_server_config: {{cert_file: {pem}, key_file: {pem}}}")
    found = Guard(path)
    before = found.tls()
    assert found.tls() is before
    (tmp_path / "new").mkdir()
    self_signed(tmp_path / "new").replace(pem)
    assert found.tls() is not before


def test_a_file_that_became_broken_changes_nothing_but_the_log_and_the_metric(tmp_path: Path) -> None:
    path, now = tmp_path / "web.yml", [0.0]
    write(path, f"basic_auth_users: {{ann: {HASH.decode()}}}")
    found = Guard(path, clock=lambda: now[0])
    write(path, "basic_auth_users: {ann: hunter2}")
    with capture_logs() as logs:
        for now[0] in (1.0, 2.0, 20.0):
            assert list(found.current().users) == ["ann"]
            assert not found.reloaded
    (line,) = logs
    assert line["event"] == "web_config_not_reloaded"
    assert "line 1: basic_auth_users.ann" in line["error"]
    assert "hunter2" not in str(line)
    path.unlink()
    assert list(found.current().users) == ["ann"]
    write(path, "")
    assert not found.current().users
    assert found.reloaded


def test_a_file_that_lacks_another_is_tried_again(tmp_path: Path) -> None:
    path, pem, now = tmp_path / "web.yml", tmp_path / "cert.pem", [0.0]
    write(path, "")
    found = Guard(path, clock=lambda: now[0])
    write(path, f"tls_server_config: {{cert_file: {pem}, key_file: {pem}}}")
    assert found.tls() is None
    self_signed(tmp_path).replace(pem)
    now[0] = guard.RETRY_SECONDS
    assert found.tls() is not None
    assert found.reloaded


def test_a_broken_file_at_the_start_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    write(path, "nonsense: 1")
    with pytest.raises(WebConfigError, match="line 1: nonsense is unknown"):
        Guard(path)


def test_a_file_is_not_read_again_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "web.yml"
    write(path, "")
    found = Guard(path)
    monkeypatch.setattr(guard, "read_web_config", lambda path: pytest.fail("read again"))
    os.utime(tmp_path)
    found.current()
