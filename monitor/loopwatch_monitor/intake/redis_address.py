"""Where a Redis broker is and which channels it has: kombu's URL and transport options, read as kombu reads them.

``redis://user:password@host:6379/0``, ``rediss://`` (TLS; ``ssl_*`` options in the query), ``redis+socket:///path``
(with ``?virtual_host=0``), and ``sentinel://`` (with the transport option ``master_name``). Several URLs are joined by
``;``: sentinels, or servers to be tried in turn.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loopwatch_monitor.intake.urls import Parts, split

__all__ = ["Address", "Endpoint", "is_redis", "make_tls", "parse_address"]

TRANSPORTS = {"redis", "rediss", "sentinel"}
_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_TLS_OPTIONS = (
    *("ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"),
    *("ssl_password", "ssl_check_hostname", "ssl_ciphers"),
)
_MAGIC = re.compile(r"([*?\[\]\\^])")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One server. ``path`` (a unix socket) stands in for host and port; ``tls`` is None where there is none;
    ``pattern`` is what to subscribe to there (PSUBSCRIBE); ``database`` and ``fanout`` are where keys are, and what the
    channels begin with that a broadcast is published to."""

    host: str = ""
    port: int = 0
    path: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    pattern: str = ""
    database: int = 0
    fanout: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Address:
    """A broker.

    Attributes:
        endpoints: its servers, to be tried in turn; with ``master_name`` its sentinels.
        master_name: the name under which the sentinels know the server; "" where there are none.
        master: what is known of that server: all but where it is.
    """

    endpoints: tuple[Endpoint, ...]
    master_name: str = ""
    master: Endpoint = Endpoint()


def is_redis(url: str) -> bool:
    """Whether kombu would reach this broker by its Redis transports.

    >>> is_redis("redis+socket:///run/redis.sock"), is_redis("REDIS://host"), is_redis("amqp://host")
    (True, True, False)
    """
    return all(_transport(part) in TRANSPORTS for part in url.split(";"))


def parse_address(
    url: str,
    *,
    exchange: str = "celeryev",
    options: Mapping[str, Any] | None = None,
    ssl_options: Mapping[str, Any] | None = None,
) -> Address:
    """The broker at ``url``; raises `ValueError`, whose message says what to write.

    Args:
        url: kombu's URL of the broker.
        exchange: Celery's ``event_exchange``.
        options: kombu's transport options; those that matter are ``fanout_prefix``, ``fanout_patterns``,
            ``global_keyprefix``, ``master_name``, ``sentinel_kwargs`` and ``sentinel_fanout_compat``.
        ssl_options: ``ssl_cert_reqs`` and the like, over those of the URL.

    >>> parse_address("redis://host/1").endpoints[0].pattern
    '/1.celeryev/*'
    """
    options, ssl_options = options or {}, ssl_options or {}
    parts = url.split(";")
    if _transport(parts[0]) != "sentinel":
        return Address(endpoints=tuple(_endpoint(part, exchange, options, ssl_options) for part in parts))
    master_name = options.get("master_name")
    if not master_name:
        raise ValueError("sentinel:// needs the name of the server: --broker-transport-option master_name=NAME")
    return Address(
        endpoints=tuple(_sentinel(part, options.get("sentinel_kwargs")) for part in parts),
        master_name=str(master_name),
        master=_endpoint(parts[0], exchange, options, ssl_options),
    )


def _transport(url: str) -> str:
    return url.partition("://")[0].partition("+")[0].lower()


def _endpoint(url: str, exchange: str, options: Mapping[str, Any], ssl_options: Mapping[str, Any]) -> Endpoint:
    found = split(url)
    database = _database(found)
    fanout = _fanout(database, options)
    common: dict[str, Any] = {
        "username": found.username,
        "password": found.password,
        # The last one is published to by all, also during a rolling upgrade.
        "pattern": _MAGIC.sub(r"\\\1", fanout[-1] + exchange) + ("/*" if options.get("fanout_patterns", True) else ""),
        "database": database,
        "fanout": fanout,
    }
    if found.scheme.endswith("+socket"):
        return Endpoint(path=f"/{found.path}", **common)
    given = {name: value for name, value in found.query.items() if name.startswith("ssl_")} | dict(ssl_options)
    return Endpoint(
        host=found.host or "127.0.0.1",
        port=found.port or _PORTS[_transport(url)],
        tls=make_tls(given) if given or found.scheme == "rediss" else None,
        **common,
    )


def _sentinel(url: str, kwargs: Any) -> Endpoint:
    """A sentinel. Its credentials and TLS are ``sentinel_kwargs``', never those of the server: kombu's rule."""
    found = split(url)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ValueError("""the transport option sentinel_kwargs must be a JSON object such as {"password": "..."}""")
    own: Mapping[str, Any] = kwargs or {}
    return Endpoint(
        host=found.host or "127.0.0.1",
        port=found.port or _PORTS["sentinel"],
        username=str(own.get("username") or ""),
        password=str(own.get("password") or ""),
        tls=make_tls({name: value for name, value in own.items() if name.startswith("ssl_")})
        if own.get("ssl")
        else None,
    )


def make_tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Verifies the server unless told not to. redis-py's names of the options; those that cannot work are a
    `ValueError`."""
    unknown = options.keys() - _TLS_OPTIONS
    if unknown:
        raise ValueError(f"the TLS option {min(unknown)} is not known; known are {', '.join(_TLS_OPTIONS)}")
    reqs = _cert_reqs(options.get("ssl_cert_reqs", "required"))
    context = ssl.create_default_context()
    context.check_hostname = reqs != ssl.CERT_NONE and str(options.get("ssl_check_hostname", True)).lower() != "false"
    context.verify_mode = reqs
    try:
        if options.get("ssl_ciphers"):
            context.set_ciphers(options["ssl_ciphers"])
        if options.get("ssl_ca_certs") or options.get("ssl_ca_path"):
            context.load_verify_locations(options.get("ssl_ca_certs"), options.get("ssl_ca_path"))
        if options.get("ssl_certfile"):
            context.load_cert_chain(
                options["ssl_certfile"], options.get("ssl_keyfile"), password=options.get("ssl_password") or ""
            )
    except OSError as error:  # ssl's own errors are some, too
        given = ", ".join(f"{name}={value}" for name, value in options.items() if name != "ssl_password")
        raise ValueError(f"the TLS options or their files cannot be used ({given}): {error}") from None
    return context


def _cert_reqs(value: Any) -> ssl.VerifyMode:
    if isinstance(value, ssl.VerifyMode):
        return value
    try:
        return _CERT_REQS[str(value).lower().removeprefix("cert_")]
    except KeyError:
        raise ValueError(f"ssl_cert_reqs must be required, optional or none, not {value!r}") from None


def _database(found: Parts) -> int:
    socket = found.scheme.endswith("+socket")
    number = found.query.get("virtual_host", "0") if socket else (found.path or "0")
    digits = number.strip("/") or "0"
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"Redis' database must be a number, not {number!r}")
    return int(digits)


def _fanout(database: int, options: Mapping[str, Any]) -> tuple[str, ...]:
    """What the channels begin with that kombu publishes broadcasts and events to.

    During a rolling upgrade from kombu before 5.4 all publish by sentinel to what those old ones take for the prefix,
    too.
    """
    prefix = options.get("fanout_prefix", True)
    template = prefix if isinstance(prefix, str) else "/{db}." if prefix else ""
    try:
        own = template.format(db=database)
    except (AttributeError, LookupError, ValueError):
        raise ValueError(
            f"the transport option fanout_prefix may hold {{db}} and no other braces, not {prefix!r}"
        ) from None
    templates = (own, *((template,) if options.get("sentinel_fanout_compat") else ()))
    return tuple(f"{options.get('global_keyprefix') or ''}{template}" for template in dict.fromkeys(templates))
