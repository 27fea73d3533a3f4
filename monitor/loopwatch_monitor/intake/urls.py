"""A broker's URL, read as kombu reads it; without its password; and what an error says, without any.

Of our own, as kombu is not imported where the broker is Redis: it is a fifth of our memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["Parts", "masked", "passwords", "reason", "split"]


_KEYS = frozenset({"azurestoragequeues"})
"""Transports in whose URLs the user is the key: there is no password beside it."""


class Parts(NamedTuple):
    """What a URL says; "" and 0 where it says nothing. ``path`` is without its first slash."""

    scheme: str
    host: str
    port: int
    username: str
    password: str
    path: str
    query: Mapping[str, str]


def split(url: str) -> Parts:
    """The parts of one URL; raises `ValueError` where its host or port makes no sense.

    >>> split("redis://:p%40ss@host:6379/0?ssl_cert_reqs=none")[:6]
    ('redis', 'host', 6379, '', 'p@ss', '0')
    """
    scheme, _, rest = url.partition("://")
    # As of HTTP, whatever the scheme: some have rules of their own.
    found = urlsplit(f"http://{rest}")
    return Parts(
        scheme.lower(),
        unquote(found.hostname or ""),
        found.port or 0,
        unquote(found.username or ""),
        unquote(found.password or ""),
        unquote(found.path.removeprefix("/")),
        dict(parse_qsl(found.query)),
    )


def masked(url: str) -> str:
    """The URL (several are joined by ``;``) without passwords and without a query, which may hold some, too.

    >>> masked("redis://user:secret@host:6379/0;redis://:secret@other")
    'redis://user:**@host:6379/0;redis://:**@other/'
    """
    return ";".join(_masked(split(part)) for part in url.split(";"))


def _masked(parts: Parts) -> str:
    name = "**" if parts.username and parts.scheme in _KEYS else quote(parts.username, safe="")
    user = name + (":**" if parts.password else "")
    at, port = "@" if user else "", f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{user}{at}{quote(parts.host, safe='')}{port}/{parts.path}"


def passwords(url: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Every password in the URL, as it is and as it is written there; and those in the transport's options.

    >>> passwords("redis://:p%40ss@host;redis://host", {"sentinel_kwargs": {"password": "other"}})
    ['p@ss', 'p%40ss', 'other']
    """
    found = [part.username if part.scheme in _KEYS else part.password for part in map(split, url.split(";"))]
    written = [text for password in found if password for text in dict.fromkeys((password, quote(password, safe="")))]
    return [*written, *_passwords_in(options or {})]


def _passwords_in(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _passwords_in(value)
        elif value and ("password" in name or "secret" in name):
            yield str(value)


def reason(error: BaseException, secrets: Iterable[str]) -> str:
    """What the error says, in one line, without the secrets: Redis repeats a command that it does not know.

    >>> reason(OSError("unknown command 'AUTH', with args beginning with: 'p4ss'"), ["p4ss"])
    "unknown command 'AUTH', with args beginning with: '**'"
    """
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "**")
    return text
