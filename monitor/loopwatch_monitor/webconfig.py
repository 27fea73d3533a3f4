"""``--web.config.file``: exporter-toolkit's YAML. What cannot work is an error that names the line and the key.

The format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md. Of its values, HTTP/2
is not served (a warning), TLS begins at 1.2, and of several ``curve_preferences`` the first is used: Python's `ssl`
takes one. Secrets are never part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import yaml

from loopwatch_monitor.rate_limit import RateLimit
from loopwatch_monitor.tls import CIPHER_SUITES, CLIENT_AUTH, CURVES, TLS, VERSIONS, TLSError, TLSSettings, make_tls

__all__ = ["HEADERS", "WebConfig", "WebConfigError", "read_web_config"]

logger = structlog.get_logger("loopwatch_monitor")

HEADERS: Mapping[str, tuple[str, ...]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
"""The headers that may be set, and their values where not any will do."""
_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
"""A salt has 128 bits: its 22nd letter tells two of them, and bcrypt raises at any other."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_SIZE = 1024 * 1024


class WebConfigError(Exception):
    """A file that cannot be used; the message says where and what to write."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None, key: str = "") -> None:
        place = f"{path}, line {line}" if line else str(path)
        super().__init__(f"{place}: {key} {problem}" if key else f"{place}: {problem}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebConfig:
    """What the file says. ``users``: bcrypt hashes by name, empty = no authentication; ``files``: read beside it."""

    tls: TLS | None = None
    files: tuple[Path, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, bytes] = field(default_factory=dict)
    rate_limit: RateLimit | None = None


class _ProblemError(Exception):
    def __init__(self, node: yaml.Node, key: str, problem: str) -> None:
        super().__init__(problem)
        self.line = node.start_mark.line + 1
        self.key = key


def read_web_config(path: Path) -> WebConfig:
    """Reads the file and the certificates that it names; raises `WebConfigError`."""
    try:
        root = yaml.compose(_read(path), Loader=yaml.SafeLoader)
        return _config(root, path.absolute().parent) if root is not None else WebConfig()
    except _ProblemError as error:
        raise WebConfigError(path, str(error), line=error.line, key=error.key) from None
    except yaml.MarkedYAMLError as error:
        # Its own text shows the line, which may hold a key.
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        raise WebConfigError(path, f"is no YAML: {error.problem or error.context}", line=line) from None
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError):
        raise WebConfigError(path, "is no YAML text") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise WebConfigError(path, f"cannot be read: {error.strerror}") from None
    if len(data) > _MAX_SIZE:
        raise WebConfigError(path, f"is larger than {_MAX_SIZE} bytes")
    return data.decode()


def _config(root: yaml.Node, directory: Path) -> WebConfig:
    readers: dict[str, Callable[[yaml.Node, str], Any]] = {
        "tls_server_config": lambda node, key: _tls(node, key, directory),
        "http_server_config": _headers,
        "basic_auth_users": _users,
        "rate_limit": _rate_limit,
    }
    found = {key: readers[key](node, key) for key, node in _mapping(root, "", readers).items()}
    tls, files = found.get("tls_server_config") or (None, ())
    return WebConfig(
        tls=tls,
        files=files,
        headers=found.get("http_server_config", {}),
        users=found.get("basic_auth_users", {}),
        rate_limit=found.get("rate_limit"),
    )


def _tls(node: yaml.Node, where: str, directory: Path) -> tuple[TLS, tuple[Path, ...]] | None:
    readers: dict[str, Callable[[yaml.Node, str], Any]] = {
        **dict.fromkeys(("cert", "key", "client_ca"), _text),
        **dict.fromkeys(("cert_file", "key_file", "client_ca_file"), lambda node, key: directory / _text(node, key)),
        "client_auth_type": lambda node, key: _one_of(node, key, CLIENT_AUTH),
        "client_allowed_sans": _texts,
        "cipher_suites": lambda node, key: _some_of(node, key, CIPHER_SUITES),
        "prefer_server_cipher_suites": _boolean,
        "curve_preferences": lambda node, key: _some_of(node, key, CURVES),
        "min_version": lambda node, key: _one_of(node, key, VERSIONS),
        "max_version": lambda node, key: _one_of(node, key, VERSIONS),
    }
    nodes = _mapping(node, where, readers)
    if not nodes:
        return None
    settings = TLSSettings(**{key: readers[key](value, f"{where}.{key}") for key, value in nodes.items()})
    if len(settings.curve_preferences) > 1:
        logger.warning("curve_preferences_cut", used=settings.curve_preferences[0], reason="Python's ssl takes one")
    try:
        return make_tls(settings), settings.files
    except TLSError as error:
        raise _ProblemError(nodes.get(error.key, node), f"{where}.{error.key}", str(error)) from None


def _headers(node: yaml.Node, where: str) -> dict[str, str]:
    nodes = _mapping(node, where, ("http2", "headers"))
    if "http2" in nodes and _boolean(nodes["http2"], f"{where}.http2"):
        logger.warning("http2_ignored", fix="HTTP/2 is not served; remove http2 from http_server_config")
    headers = {}
    for name, value in _mapping(nodes["headers"], f"{where}.headers", HEADERS).items() if "headers" in nodes else ():
        key = f"{where}.headers.{name}"
        text = _one_of(value, key, HEADERS[name]) if HEADERS[name] else _literal(value, key)
        if not text.isprintable():
            raise _ProblemError(value, key, "must be one line of printable text")
        headers[name] = text
    return headers


def _users(node: yaml.Node, where: str) -> dict[str, bytes]:
    users = {}
    for name, value in _mapping(node, where).items():
        text = _text(value, f"{where}.{name}")
        if not _BCRYPT.fullmatch(text):
            raise _ProblemError(value, f"{where}.{name}", "must be a bcrypt hash, as `htpasswd -nBC 10 NAME` prints it")
        users[name] = text.encode()
    return users


def _rate_limit(node: yaml.Node, where: str) -> RateLimit | None:
    nodes = _mapping(node, where, ("interval", "burst"))
    interval = _duration(nodes["interval"], f"{where}.interval") if "interval" in nodes else 0.0
    burst = _integer(nodes["burst"], f"{where}.burst") if "burst" in nodes else 1
    if interval and burst < 1:
        raise _ProblemError(nodes["burst"], f"{where}.burst", "must be 1 at least: no request would be served")
    return RateLimit(interval, burst) if interval else None


# --------------------------------------------------------------------------- YAML's nodes, each with its line
def _mapping(node: yaml.Node, where: str, known: Collection[str] | None = None) -> dict[str, yaml.Node]:
    if _kind(node) == "null":
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise _ProblemError(node, where or "the file", "must be a mapping")
    entries: dict[str, yaml.Node] = {}
    for name, value in node.value:
        key = str(name.value) if isinstance(name, yaml.ScalarNode) else "?"
        full = f"{where}.{key}" if where else key
        if known is not None and key not in known:
            raise _ProblemError(name, full, f"is unknown; known are {', '.join(known)}")
        if key in entries:
            raise _ProblemError(name, full, "is there twice")
        entries[key] = value
    return entries


def _kind(node: yaml.Node) -> str:
    return str(node.tag).rpartition(":")[2]


def _scalar(node: yaml.Node, where: str, kind: str, called: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or _kind(node) != kind:
        raise _ProblemError(node, where, f"must be {called}")
    return str(node.value)


def _text(node: yaml.Node, where: str) -> str:
    text = _scalar(node, where, "str", "a text (quote it)")
    if not text:
        raise _ProblemError(node, where, "is empty")
    return text


def _literal(node: yaml.Node, where: str) -> str:
    """As Go reads a text: a number is its digits. It may be empty, which takes away the header that we would send."""
    return "" if _kind(node) == "null" else _scalar(node, where, _kind(node), "a text")


def _boolean(node: yaml.Node, where: str) -> bool:
    return _scalar(node, where, "bool", "true or false").lower() in ("true", "yes", "on")


def _integer(node: yaml.Node, where: str) -> int:
    text = _scalar(node, where, "int", "a whole number")
    if not text.isdigit() or len(text) > 18:
        raise _ProblemError(node, where, "must be a whole number of 18 digits at most")
    return int(text)


def _duration(node: yaml.Node, where: str) -> float:
    """Seconds from Go's notation."""
    text = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
    parts = _DURATION.findall(text)
    if text != "0" and (not parts or "".join(map("".join, parts)) != text):
        raise _ProblemError(node, where, "must be a duration like 1s or 500ms, or 0")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _texts(node: yaml.Node, where: str) -> tuple[str, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise _ProblemError(node, where, "must be a list")
    return tuple(_text(item, where) for item in node.value)


def _one_of(node: yaml.Node, where: str, known: Iterable[str]) -> str:
    text = _text(node, where)
    if text not in known:
        raise _ProblemError(node, where, f"must be one of {', '.join(known)}")
    return text


def _some_of(node: yaml.Node, where: str, known: Iterable[str]) -> tuple[str, ...]:
    texts = _texts(node, where)
    for item, text in zip(node.value, texts, strict=True):
        if text not in known:
            raise _ProblemError(item, where, f"must hold of these: {', '.join(known)}")
    return texts
