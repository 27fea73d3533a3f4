"""Passwords: who gets in, what it costs, and what is remembered."""

from __future__ import annotations

import base64

import bcrypt
import pytest

from loopwatch_monitor import passwords as passwords_module
from loopwatch_monitor.passwords import Passwords, TooManyChecksError

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
    monkeypatch.setattr(passwords_module, "MAX_PASSED", 2)
    passwords.users = dict.fromkeys("abc", HASH)
    for name in "abc":
        assert await passwords.admits(basic(name, "secret"))
    assert len(passwords._passed) == 2
    assert not [key for key in passwords._passed if b"secret" in key]


async def test_only_so_many_may_wait(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords_module, "MAX_WAITING", 0)
    with pytest.raises(TooManyChecksError):
        await passwords.admits(basic("ann", "secret"))


async def test_a_password_is_cut_where_htpasswd_cuts_it(passwords: Passwords) -> None:
    passwords.users = {"ann": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4))}
    assert await passwords.admits(basic("ann", "x" * 100))
