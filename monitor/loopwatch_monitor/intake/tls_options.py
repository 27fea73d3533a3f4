"""TLS options as the command line gives them, in the words of the library that will read them.

celery-exporter's users write redis-py's names (``ssl_ca_certs``) for Redis and Python's (``ca_certs``) for AMQP: both
are understood for both, as is ``CERT_REQUIRED`` beside ``required``.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopwatch_monitor.intake.redis_address import is_redis

__all__ = ["kombu_ssl", "redis_ssl"]

_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def redis_ssl(options: Mapping[str, Any]) -> dict[str, Any]:
    """With redis-py's names.

    >>> redis_ssl({"ca_certs": "ca.pem", "ssl_cert_reqs": "CERT_REQUIRED"})
    {'ssl_ca_certs': 'ca.pem', 'ssl_cert_reqs': 'required'}
    """
    named = {f"ssl_{name.removeprefix('ssl_')}": value for name, value in options.items()}
    reqs = named.get("ssl_cert_reqs")
    return named | ({"ssl_cert_reqs": str(reqs).lower().removeprefix("cert_")} if reqs is not None else {})


def kombu_ssl(url: str, options: Mapping[str, Any]) -> dict[str, Any] | bool:
    """What kombu's ``Connection`` takes as ``ssl`` for this broker; False where nothing is asked for. An unknown
    ``cert_reqs`` and a file that cannot be read are a `ValueError`.

    >>> kombu_ssl("amqp://host", {"ssl_cert_reqs": "CERT_NONE"})
    {'cert_reqs': <VerifyMode.CERT_NONE: 0>}
    >>> kombu_ssl("amqp://host", {})
    False
    """
    if not options:
        return False
    named = redis_ssl(options)
    reqs = named.get("ssl_cert_reqs", "required")
    if reqs not in _REQS:
        raise ValueError(f"ssl_cert_reqs must be required, optional or none, not {reqs!r}")
    for option in _FILES & named.keys():
        try:
            Path(named[option]).open("rb").close()
        except OSError as error:
            raise ValueError(f"{option}={named[option]}: {error.strerror}") from None
    if is_redis(url):
        return named
    plain = {name.removeprefix("ssl_"): value for name, value in named.items()}
    return plain | ({"cert_reqs": _REQS[reqs]} if "cert_reqs" in plain else {})
