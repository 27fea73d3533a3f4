"""Passwords of the pages' readers: basic authentication against bcrypt hashes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
import string
from collections import OrderedDict
from collections.abc import Mapping

import bcrypt

from loopwatch_monitor.threads import in_thread

__all__ = ["Passwords", "TooManyChecksError"]

MAX_PASSED = 128
"""Passwords that are remembered as right."""
MAX_WAITING = 32
"""Passwords that may wait to be checked."""
_PASSWORD_BYTES = 72
"""bcrypt's own limit: htpasswd and Go cut there, too."""
_BCRYPT_LETTERS = string.ascii_letters + string.digits + "./"


class TooManyChecksError(Exception):
    """So many passwords wait to be checked that another one is not taken."""


class Passwords:
    """Checks basic authentication.

    One hash is computed at a time, in a thread. A password that passed is remembered by a keyed hash, so that a scrape
    does not cost what bcrypt does; one that failed is not. An unknown user costs what a known one does.
    """

    def __init__(self) -> None:
        self._users: dict[str, bytes] = {}
        self._decoy = b""
        self._key = secrets.token_bytes(32)
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._turn = asyncio.Lock()
        self._waiting = 0

    @property
    def users(self) -> Mapping[str, bytes]:
        """bcrypt hashes by user; none = everybody may enter."""
        return self._users

    @users.setter
    def users(self, users: Mapping[str, bytes]) -> None:
        self._users = dict(users)
        self._passed.clear()
        self._decoy = _decoy(users)

    async def admits(self, authorization: str) -> bool:
        """Whether this ``Authorization`` header names a user with his password; raises `TooManyChecksError`."""
        if not self._users:
            return True
        credentials = _credentials(authorization)
        if credentials is None:
            return False
        user, password = credentials
        known, decoy = self._users.get(user), self._decoy
        digest = self._digest(user, known or decoy, password)
        if digest in self._passed:
            self._passed.move_to_end(digest)
            return True
        if self._waiting >= MAX_WAITING:
            raise TooManyChecksError
        self._waiting += 1
        try:
            async with self._turn:
                passed = await in_thread(lambda: bcrypt.checkpw(password[:_PASSWORD_BYTES], known or decoy))
        finally:
            self._waiting -= 1
        passed = passed and known is not None and self._users.get(user) == known
        if passed:
            self._passed[digest] = None
            if len(self._passed) > MAX_PASSED:
                self._passed.popitem(last=False)
        return passed

    def _digest(self, user: str, hashed: bytes, password: bytes) -> bytes:
        message = b"\0".join(part.hex().encode() for part in (user.encode(), hashed, password))
        return hmac.digest(self._key, message, "sha256")


def _credentials(authorization: str) -> tuple[str, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _decoy(users: Mapping[str, bytes]) -> bytes:
    """A hash that no password has, as costly as the costliest there is."""
    cost = max((int(hashed[4:6]) for hashed in users.values()), default=10)
    digest = "".join(secrets.choice(_BCRYPT_LETTERS) for _ in range(31))
    return bcrypt.gensalt(cost) + digest.encode()
