"""Reads docker-compose.yml as `docker compose config` does: merge keys, variables, and each key's several forms.

A key that is neither read nor declared as `WITHOUT_EFFECT` is an error: nothing in the file goes untested unnoticed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ComposeError", "Health", "Mount", "Service", "interpolate", "read_compose", "seconds"]

WITHOUT_EFFECT = {
    "build": "the tree itself is run; of the Dockerfile, compose_rules.py reads what it says about the process",
    "init": "what the test starts, it also reaps",
    "restart": "a process that ends by itself is an error here",
    "logging": "the output goes to a file",
    "read_only": "it needs a root file system of its own",
    "cap_drop": "it needs root, whom a test does not ask for",
    "security_opt": "as above",
    "user": "as above; where we are root, PostgreSQL, which refuses it, runs as nobody",
    "shm_size": "the machine's",
    "tmpfs": "TMPDIR names a directory that is removed",
    "deploy": "limits need a control group; the test compares them with what is used",
}
"""Keys of a service that a process on this machine cannot have, and why that is no loss."""

_READ = {
    *("image", "entrypoint", "command", "environment", "hostname", "depends_on", "healthcheck", "volumes", "ports"),
    *("profiles", "stop_signal", "stop_grace_period"),
}
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<braced>\w+)(?::?-(?P<default>[^}]*))?\}|(?P<bare>\w+)|)")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")


class ComposeError(Exception):
    """The file says what the runner does not understand; or a service did not become healthy."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """A health check; its numbers are seconds, and the defaults are Docker's.

    Attributes:
        command: the check's words; of a shell's line, ``sh -c`` and the line.
    """

    command: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A place in the container: ``source`` is a path (``./...``) or the name of a volume."""

    source: str
    target: str

    @property
    def is_file(self) -> bool:
        """Whether it comes from the project's directory, and is not a volume."""
        return self.source.startswith(("./", "../", "/"))


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service, with everything filled in. ``entrypoint`` and ``command`` are None where the image's own hold."""

    name: str
    image: str
    dockerfile: str | None
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    environment: Mapping[str, str]
    hostname: str | None
    needs: tuple[str, ...]
    health: Health | None
    mounts: tuple[Mount, ...]
    published: Mapping[int, int]
    """Port of the host by port of the container."""
    profiles: tuple[str, ...]
    stop_signal: str
    stop_grace_period: float


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """The services by name. ``variables`` are those of the shell. Raises `ComposeError`."""
    file = interpolate(yaml.safe_load(path.read_text()), variables)
    return {name: _service(name, raw) for name, raw in file["services"].items()}


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """The value with ``${NAME:-default}``, ``${NAME}``, ``$NAME`` and ``$$`` replaced in all its texts.

    >>> interpolate(["${A:-1}", "$B", "$$C"], {"B": "2"})
    ['1', '2', '$C']
    """
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def variable(found: re.Match[str]) -> str:
        if found["escaped"]:
            return "$"
        name = found["braced"] or found["bare"]
        if not name or (name not in variables and found["default"] is None):
            raise ComposeError(f"{value!r}: {found[0]!r} is no variable that is set; write ${{NAME:-default}}, or $$")
        return variables.get(name) or found["default"] or ""

    return _VARIABLE.sub(variable, value)


def seconds(text: str) -> float:
    """A duration of Compose's in seconds.

    >>> seconds("1m30s"), seconds("500ms")
    (90.0, 0.5)
    """
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise ComposeError(f"{text!r} is no duration such as 1m30s")
    hours, minutes, whole, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + whole + milliseconds / 1000


def _service(name: str, raw: dict[str, Any]) -> Service:
    if unknown := raw.keys() - _READ - WITHOUT_EFFECT.keys():
        raise ComposeError(
            f"{name}: {', '.join(sorted(unknown))}: teach compose_file.py to read it, "
            "or declare in WITHOUT_EFFECT why nothing is lost without it"
        )
    return Service(
        name=name,
        image=raw["image"],
        dockerfile=raw["build"]["dockerfile"] if "build" in raw else None,
        entrypoint=_words(raw.get("entrypoint")),
        command=_words(raw.get("command")),
        environment=_pairs(raw.get("environment", {})),
        hostname=raw.get("hostname"),
        needs=_needs(name, raw.get("depends_on", {})),
        health=_health(name, raw.get("healthcheck")),
        mounts=tuple(_mount(name, text) for text in raw.get("volumes", [])),
        published=dict(_port(name, text) for text in raw.get("ports", [])),
        profiles=tuple(raw.get("profiles", [])),
        stop_signal=raw.get("stop_signal", "SIGTERM"),
        stop_grace_period=seconds(raw.get("stop_grace_period", "10s")),
    )


def _words(value: str | list[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(shlex.split(value) if isinstance(value, str) else map(str, value))


def _pairs(value: dict[str, Any] | list[str]) -> dict[str, str]:
    pairs = value.items() if isinstance(value, dict) else (item.split("=", 1) for item in value)
    return {name: str(text) for name, text in pairs}


def _needs(name: str, value: list[str] | dict[str, dict[str, str]]) -> tuple[str, ...]:
    for how in value.values() if isinstance(value, dict) else ():
        if how != {"condition": "service_healthy"}:
            raise ComposeError(f"{name}: depends_on: {how}: the runner waits for service_healthy alone")
    return tuple(value)


def _health(name: str, value: dict[str, Any] | None) -> Health | None:
    if value is None:
        return None
    times = {key: seconds(item) for key, item in value.items() if key not in ("test", "retries")}
    return Health(command=_check(name, value["test"]), retries=value.get("retries", 3), **times)


def _check(name: str, test: str | list[str]) -> tuple[str, ...]:
    match test:
        case ["CMD", *words]:
            return tuple(words)
        case ["CMD-SHELL", line] | str(line):
            return ("/bin/sh", "-c", line)
    raise ComposeError(f"{name}: healthcheck: {test}: it begins with CMD or CMD-SHELL, or is a text")


def _mount(name: str, text: str) -> Mount:
    source, target, *_ = (*text.split(":"), "")
    if not target.startswith("/"):
        raise ComposeError(f"{name}: volumes: {text!r} is not of the form SOURCE:/TARGET")
    return Mount(source=source, target=target)


def _port(name: str, text: str) -> tuple[int, int]:
    found = re.fullmatch(r"127\.0\.0\.1:(\d+):(\d+)", text)
    if found is None:
        raise ComposeError(f"{name}: ports: {text!r} is not of the form 127.0.0.1:HOST:CONTAINER")
    return int(found[2]), int(found[1])
