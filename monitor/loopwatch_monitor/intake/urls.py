"""The broker's URL without its password, and the passwords that no text may show."""

from __future__ import annotations

from urllib.parse import quote

from kombu.utils.url import sanitize_url, url_to_parts

__all__ = ["masked", "passwords"]


def masked(url: str) -> str:
    """The URL (several are joined by ``;``) without passwords and without a query, which may hold some, too.

    >>> masked("redis://user:secret@host:6379/0;redis://:secret@other")
    'redis://user:**@host:6379/0;redis://:**@other/'
    """
    return ";".join(sanitize_url(part) for part in url.split(";"))


def passwords(url: str) -> list[str]:
    """Every password in the URL, as it is and as it is written there.

    >>> passwords("redis://:p%40ss@host;redis://host")
    ['p@ss', 'p%40ss']
    """
    found = [url_to_parts(part).password for part in url.split(";")]
    return [text for password in found if password for text in dict.fromkeys((password, quote(password, safe="")))]
