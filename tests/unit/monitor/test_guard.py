"""Passwords, the rate limit, and a web configuration that changes while it is in use."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import bcrypt
import pytest
from structlog.testing import capture_logs

from loopwatch_monitor import guard
from loopwatch_monitor.guard import Guard, Passwords, TokenBucket, TooManyChecksError
from loopwatch_monitor.webconfig import RateLimit, WebConfigError
from tests.integration.certificates import self_signed

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(5))


def basic(user: str, password: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """Passwords and hashes that bcrypt was asked about; it answers itself."""
    asked = []
    checkpw = bcrypt.checkpw

    def spy(password: bytes, hashed: bytes) -> bool:
        asked.append((password, hashed))
        return checkpw(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", spy)
    return asked


@pytest.fixture
def passwords() -> Passwords:
    passwords = Passwords()
    passwords.users = {"ann": HASH}
    return passwords


async def test_without_users_everybody_may_enter() -> None:
    assert await Passwords().admits("")


@pytest.mark.parametrize("header", [basic("ann", "secret"), basic("ann", "secret", "bAsIc")])
async def test_the_right_password(passwords: Passwords, header: str) -> None:
    assert await passwords.admits(header)


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ", "Basic !", "Basic YW5u", "Basic /////w==", f"Bearer {basic('ann', 'secret')[6:]}",
     basic("ann", ""), basic("ann", "Secret"), basic("", "secret"), basic("bob", "secret"), basic("ann", "a\0b")],
)  # fmt: skip
async def test_anything_else(passwords: Passwords, header: str) -> None:
    assert not await passwords.admits(header)


async def test_an_unknown_user_costs_what_a_known_one_does(
    passwords: Passwords, checks: list[tuple[bytes, bytes]]
) -> None:
    passwords.users = {"ann": HASH, "eve": bcrypt.hashpw(b"x", bcrypt.gensalt(6))}
    assert not await passwords.admits(basic("bob", "secret"))
    assert not await passwords.admits(basic("eve", "secret"))
    (_, decoy), (_, known) = checks
    assert decoy[:7] == known[:7] == b"$2b$06$"
    assert not await passwords.admits(basic("bob", "secret"))
    assert len(checks) == 3


async def test_what_passed_is_not_hashed_again_and_what_failed_is(
    passwords: Passwords, checks: list[tuple[bytes, bytes]]
) -> None:
    for _ in range(3):
        assert await passwords.admits(basic("ann", "secret"))
    assert len(checks) == 1
    for _ in range(3):
        assert not await passwords.admits(basic("ann", "wrong"))
    assert len(checks) == 4
    passwords.users = {"ann": bcrypt.hashpw(b"other", bcrypt.gensalt(4))}
    assert not await passwords.admits(basic("ann", "secret"))


async def test_what_is_remembered_is_bounded_and_no_password(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_PASSED", 2)
    passwords.users = dict.fromkeys("abc", HASH)
    for name in "abc":
        assert await passwords.admits(basic(name, "secret"))
    assert len(passwords._passed) == 2
    assert not [key for key in passwords._passed if b"secret" in key]


async def test_only_so_many_may_wait(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_WAITING", 0)
    with pytest.raises(TooManyChecksError):
        await passwords.admits(basic("ann", "secret"))


async def test_a_password_is_cut_where_htpasswd_cuts_it(passwords: Passwords) -> None:
    passwords.users = {"ann": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))}
    assert await passwords.admits(basic("ann", "x" * 100))


def test_a_bucket_fills_up_to_its_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(RateLimit(interval=2.0, burst=3), lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 2.0
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


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
