"""Where containers find each other and their files: host names, ports and paths, as they are on this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from tests.acceptance.compose_file import ComposeError, Mount, Service
from tests.acceptance.compose_rules import Image, process_environment
from tests.ports import server_port

__all__ = ["Change", "Places", "Ports", "translate_paths"]

Change = Path | Callable[[str], str]
"""What stands for a mounted file or directory: another one, or what is made of the text of each of its files."""

_LOCAL = ("localhost", "127.0.0.1")


class Ports:
    """The port of this machine that stands for each port of each container.

    Args:
        images: of the services that run here.
    """

    def __init__(self, services: Mapping[str, Service], images: Mapping[str, Image]) -> None:
        self._services = services
        names = "|".join(sorted((*map(re.escape, images), *map(re.escape, _LOCAL)), key=len, reverse=True))
        self._address = re.compile(rf"(?<![\w.-])({names}):(\d+)\b")
        self._here: dict[tuple[str, int], int] = {}
        # Those that somebody else knows come first: `of` means the first one.
        for name in images:
            for port in (*services[name].published, *_told(services[name].command or ())):
                self._add(name, port)
            for host, port in self._address.findall(" ".join(_texts(services[name]))):
                if host not in _LOCAL:
                    self._add(host, int(port))
        for name, image in images.items():
            for port in image.ports:
                self._add(name, port)

    def of(self, name: str, port: int | None = None) -> int:
        """The port of this machine that stands for the container's ``port`` (by default the one that is asked for)."""
        if port is None:
            port = next(port for service, port in self._here if service == name)
        return self._here[name, port]

    def translate(self, name: str, text: str) -> str:
        """A text of this service's: ``redis:6379``, its own ``127.0.0.1:9090``, another's ``localhost:8080``."""
        if text == "0.0.0.0":
            return "127.0.0.1"
        text = re.sub(r"\{port:(\d+)\}", lambda found: str(self.of(name, int(found[1]))), text)
        return self._address.sub(lambda found: self._translated(name, found[1], int(found[2])) or found[0], text)

    def translate_words(self, name: str, words: Iterable[str]) -> list[str]:
        """The words of a command of this service's; a number after ``--port`` is a port of its own."""
        translated: list[str] = []
        for word in words:
            own = translated[-1:] == ["--port"] and word.isdigit()
            translated.append(str(self.of(name, int(word))) if own else self.translate(name, word))
        return translated

    def _add(self, name: str, port: int) -> None:
        while (name, port) not in self._here:
            here = server_port()
            if here not in self._here.values():
                self._here[name, port] = here

    def _translated(self, name: str, host: str, port: int) -> str | None:
        if host not in _LOCAL:
            return f"127.0.0.1:{self.of(host, port)}"
        if (name, port) not in self._here:
            # As a browser on the host writes it: a port that is published.
            name, port = next(
                (
                    (other.name, inside)
                    for other in self._services.values()
                    for inside, outside in other.published.items()
                    if outside == port
                ),
                (name, port),
            )
        here = self._here.get((name, port))
        return f"127.0.0.1:{here}" if here else None


def _told(words: Iterable[str]) -> list[int]:
    """The ports that a command names, as ``--port N``."""
    return [int(word) for before, word in pairwise(words) if before == "--port" and word.isdigit()]


def _texts(service: Service) -> Iterable[str]:
    yield from service.environment.values()
    yield from service.entrypoint or ()
    yield from service.command or ()
    yield from service.health.command if service.health else ()


def translate_paths(text: str, places: Mapping[str, Path]) -> str:
    """The text with the container's paths replaced by those of this machine.

    >>> translate_paths("--config=/etc/x/x.yml /etc/x/xy /x", {"/etc/x/x.yml": Path("/tmp/1"), "/x": Path("/tmp/2")})
    '--config=/tmp/1 /etc/x/xy /tmp/2'
    """
    for target in sorted(places, key=len, reverse=True):
        pattern = rf"(?<![\w./-]){re.escape(target)}(?![\w.-])"
        text = re.sub(pattern, lambda _, here=places[target]: str(here), text)  # type: ignore[misc]
    return text


class Places:
    """The services' directories, and their commands, environment and files in terms of this machine.

    Args:
        root: the project's directory.
        directory: where everything goes that is written.
        images: of the services that run here.
        changes: what stands for a mounted file, by its name in the compose file.
    """

    def __init__(
        self,
        root: Path,
        directory: Path,
        services: Mapping[str, Service],
        images: Mapping[str, Image],
        changes: Mapping[str, Change],
    ) -> None:
        mounted = {mount.source for service in services.values() for mount in service.mounts}
        if unknown := changes.keys() - mounted:
            raise ComposeError(f"nothing mounts {', '.join(sorted(unknown))}; there is {', '.join(sorted(mounted))}")
        self.ports = Ports(services, images)
        self._root = root
        self._directory = directory
        self._services = services
        self._images = images
        self._changes = changes

    def directory(self, name: str) -> Path:
        """The service's own directory."""
        return self._directory / name

    def log(self, name: str) -> Path:
        """Where its output goes."""
        return self._directory / f"{name}.log"

    def words(self, name: str, words: Iterable[str]) -> list[str]:
        """A command's words."""
        mounts = self._mounts(name)
        return [translate_paths(word, mounts) for word in self.ports.translate_words(name, words)]

    def environment(self, name: str) -> dict[str, str]:
        """What its processes have in their environment."""
        given = process_environment(self._services[name], self._images[name], self._root, self.directory(name))
        return {key: self.ports.translate(name, text) for key, text in given.items()}

    def lay_files(self, name: str) -> None:
        """Makes its directories, and copies what it mounts."""
        self.directory(name).mkdir(exist_ok=True)
        for mount in self._services[name].mounts:
            place = self._mounts(name)[mount.target]
            if mount.is_file:
                shutil.rmtree(place, ignore_errors=True)
                self._copy(name, mount, place)
            else:
                place.mkdir(parents=True, exist_ok=True)

    def _mounts(self, name: str) -> dict[str, Path]:
        """Where the container's paths are."""
        return {
            mount.target: self.directory(name) / "files" / mount.target.lstrip("/")
            if mount.is_file
            else self._directory / "volumes" / mount.source
            for mount in self._services[name].mounts
        }

    def _copy(self, name: str, mount: Mount, place: Path) -> None:
        change = self._changes.get(mount.source)
        source = change if isinstance(change, Path) else self._root / mount.source
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file():
                text = change(path.read_text()) if callable(change) else path.read_text()
                target = place / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(translate_paths(self.ports.translate(name, text), self._mounts(name)))
