"""What differs between a container and a process of this machine: declared here, each rule with its reason.

Everything else (commands, environment, configuration, health checks) is what docker-compose.yml and the Dockerfiles
say.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.compose_file import ComposeError, Service

__all__ = ["NOT_HERE", "Image", "image_of", "process_environment"]

NOT_HERE = {
    "grafana/grafana": "no registry of packages has it; its provisioning and dashboards are checked by the unit tests",
}
"""Images whose program cannot be had on this machine."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What an image adds to the compose file, and what stands for it on this machine.

    ``{port:N}`` in a text is the port of this machine that stands for the container's port N.

    Attributes:
        entrypoint, command: as the image's, with this machine's program.
        environment: the image's.
        ports: those that it listens on.
        arguments: added at the end of the command.
        variables: added to the environment.
        clients: arguments added behind a program of this name in a health check.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    clients: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# In a container a program has all ports for itself, and an address of its own to listen on; here it is told a port of
# the loopback interface, in its own words. Clients whose health check relies on a default port are told it, too.
_FOREIGN = {
    # Its entrypoint script makes a cluster and a database: compose.py does that (`make_cluster`) and adds the rest.
    "postgres": Image(command=("postgres",), ports=(5432,), clients={"pg_isready": ("--port={port:5432}",)}),
    "redis": Image(
        command=("redis-server",),
        ports=(6379,),
        arguments=("--bind", "127.0.0.1", "--port", "{port:6379}"),
        clients={"redis-cli": ("-p", "{port:6379}")},
    ),
    # Debian's programs; the commands are those of the images' Dockerfiles.
    "prom/prometheus": Image(
        entrypoint=("prometheus",),
        command=("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"),
        ports=(9090,),
        arguments=("--web.listen-address=127.0.0.1:{port:9090}",),
    ),
    "prom/alertmanager": Image(
        entrypoint=("prometheus-alertmanager",),
        command=("--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"),
        ports=(9093,),
        arguments=("--web.listen-address=127.0.0.1:{port:9093}",),
    ),
}
_OWN_VARIABLES = {
    "loopwatch-app": {"API_PORT": "{port:8080}"},
    "loopwatch-monitor": {"LOOPWATCH_PORT": "{port:9808}"},
}


def image_of(service: Service, root: Path) -> Image:
    """The service's image. Raises `ComposeError` for one that has no rule here."""
    name = service.image.partition(":")[0]
    if name not in (_FOREIGN if service.dockerfile is None else _OWN_VARIABLES):
        raise ComposeError(f"{service.name}: {name}: declare in compose_rules.py what stands for this image")
    if service.dockerfile is None:
        return _FOREIGN[name]
    text = (root / service.dockerfile).read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    return Image(
        entrypoint=_words(text, "ENTRYPOINT"),
        command=_words(text, "CMD"),
        environment=_environment(text),
        ports=tuple(int(port) for port in re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE)),
        variables=_OWN_VARIABLES[name],
    )


def _words(text: str, instruction: str) -> tuple[str, ...]:
    found = re.search(rf"^{instruction} (\[.*\])$", text, re.MULTILINE)
    return tuple(json.loads(found[1])) if found else ()


def _environment(text: str) -> dict[str, str]:
    pairs = [pair for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE) for pair in shlex.split(line)]
    # PATH: the programs are this machine's.
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs) if name != "PATH"}


def process_environment(service: Service, image: Image, root: Path, directory: Path) -> dict[str, str]:
    """What the service's processes have in their environment, not yet translated, and nothing of ours beside it."""
    here = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # The image has the project installed; here the tree is what is tested.
        "PYTHONPATH": f"{root}:{root / 'monitor'}",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "LANG": "C.UTF-8",
    }
    environment = {**here, **image.environment, **image.variables, **service.environment}
    if service.hostname:
        # A machine has one host name; Celery's %h would be this one's.
        host = environment.get("CELERY_NODE_HOST", "%h")
        environment["CELERY_NODE_HOST"] = host.replace("%h", service.hostname)
    return environment
