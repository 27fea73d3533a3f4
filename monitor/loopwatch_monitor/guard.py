"""Who may have a page, and how often: the web configuration of the moment, passwords, and the rate limit.

The file is looked at with every connection and request, and read again when it or a certificate has changed. One that
has become broken changes nothing but a log line and a metric.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import bcrypt
import structlog

from loopwatch_monitor.threads import in_thread
from loopwatch_monitor.tls import TLS
from loopwatch_monitor.webconfig import RateLimit, WebConfig, WebConfigError, read_web_config

__all__ = ["Guard", "Passwords", "TokenBucket", "TooManyChecksError"]

logger = structlog.get_logger("loopwatch_monitor")

RETRY_SECONDS = 5.0
"""A broken file is tried again so often: what it lacks may be another file that we do not know of."""
MAX_PASSED = 128
MAX_WAITING = 32
_PASSWORD_BYTES = 72
"""bcrypt's own limit: htpasswd and Go cut there, too."""
_BCRYPT_LETTERS = string.ascii_letters + string.digits + "./"

_Fingerprint = tuple[tuple[int, int, int] | None, ...]


class Guard:
    """Keeps the configuration up to date.

    Args:
        path: the file; ``None`` = everybody may have everything, in plain HTTP.
        clock: monotonic seconds.

    Raises `WebConfigError` when the file cannot be used.
    """

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._config = WebConfig()
        self._seen: _Fingerprint = ()
        self._failure = ""
        self._tried = 0.0
        self._bucket: TokenBucket | None = None
        self.passwords = Passwords()
        if path is not None:
            self._seen = _fingerprint((path,))
            self._take(read_web_config(path))

    @property
    def reloaded(self) -> bool:
        """Whether the configuration in use is what the file says."""
        return not self._failure

    def tls(self) -> TLS | None:
        """For a new connection; ``None`` = plain HTTP."""
        return self.current().tls

    def admits(self) -> bool:
        """Takes a token for a request; whether there was one."""
        self.current()
        return self._bucket is None or self._bucket.take()

    def current(self) -> WebConfig:
        """The configuration, read again when a file has changed."""
        if self._path is not None and self._changed(self._path):
            self._reload(self._path)
        return self._config

    def _changed(self, path: Path) -> bool:
        if self._failure and self._clock() - self._tried >= RETRY_SECONDS:
            return True
        return _fingerprint((path, *self._config.files)) != self._seen

    def _reload(self, path: Path) -> None:
        self._tried = self._clock()
        self._seen = _fingerprint((path, *self._config.files))
        try:
            config = read_web_config(path)
        except WebConfigError as error:
            if str(error) != self._failure:
                logger.error("web_config_not_reloaded", error=str(error), fix="the configuration before it is in use")
            self._failure = str(error)
            return
        self._failure = ""
        self._take(config)
        logger.info("web_config_reloaded", path=str(path))

    def _take(self, config: WebConfig) -> None:
        if config.rate_limit != self._config.rate_limit:
            self._bucket = TokenBucket(config.rate_limit, self._clock) if config.rate_limit is not None else None
        self._config = config
        self.passwords.users = config.users
        if self._path is not None:
            # The file's own state is that from before it was read: a change since then is seen the next time.
            self._seen = (*self._seen[:1], *_fingerprint(config.files))


def _fingerprint(paths: tuple[Path, ...]) -> _Fingerprint:
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


class TokenBucket:
    """Lets ``burst`` requests through at once, and one more each ``interval`` seconds.

    >>> now = iter([0.0, 0.0, 0.0, 1.0]).__next__
    >>> bucket = TokenBucket(RateLimit(interval=1.0, burst=1), now)
    >>> bucket.take(), bucket.take(), bucket.take()
    (True, False, True)
    """

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._tokens = float(limit.burst)
        self._filled = clock()

    def take(self) -> bool:
        """Takes a token, if there is one."""
        now = self._clock()
        self._tokens = min(self._limit.burst, self._tokens + (now - self._filled) / self._limit.interval)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


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
