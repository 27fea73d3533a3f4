"""Credentials out of texts: an exception's message, or a line of source code, may quote a URL with its password."""

from __future__ import annotations

import re

__all__ = ["redact"]

# SQLAlchemy lets a password hold anything but an @, and people write one of those, too; so up to the last @ before a
# space. A query with an @ in it is taken for a password as well, which harms nobody. Bounded: linear time.
_CREDENTIALS = re.compile(r"://[^\s:/@]{0,200}:[^\s'\"]{0,500}@")
# A query's, libpq's, a keyword argument's in a line of source; a dictionary's as its repr has it.
_PASSWORD = re.compile(
    r"((?:password|passwd|pwd)(?:\s{0,3}=|['\"]\s{0,3}:)\s{0,3}['\"]?)[^\s&;,)'\"]{1,500}", re.IGNORECASE
)


def redact(text: str) -> str:
    """The text, with ``scheme://***@host`` in place of each URL's user and password, and without what is called one.

    >>> redact("no answer from redis://:secret@localhost:6379/0")
    'no answer from redis://***@localhost:6379/0'
    >>> redact("redis://localhost?password=secret&db=1")
    'redis://localhost?password=***&db=1'
    """
    return _PASSWORD.sub(r"\1***", _CREDENTIALS.sub("://***@", text))
