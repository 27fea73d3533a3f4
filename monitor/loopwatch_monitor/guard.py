"""Who may have a page, and how often: the web configuration of the moment, with its passwords and its rate limit.

The file is looked at with every connection and request, and read again when it or a certificate has changed. One that
has become broken changes nothing but a log line and a metric.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from loopwatch_monitor.passwords import Passwords
from loopwatch_monitor.rate_limit import TokenBucket
from loopwatch_monitor.tls import TLS
from loopwatch_monitor.webconfig import WebConfig, WebConfigError, read_web_config

__all__ = ["Guard"]

logger = structlog.get_logger("loopwatch_monitor")

RETRY_SECONDS = 5.0
"""A broken file is tried again so often: what it lacks may be another file that we do not know of."""
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
