"""A real Prometheus beside the demo's servers, from the Debian package: on a free port of the loopback interface."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.demo.servers import HOST, Server, ServerMissingError, _start

__all__ = ["start_prometheus"]


def start_prometheus(directory: Path, configuration: Mapping[str, Any]) -> Server:
    """Starts Prometheus with this configuration (what ``prometheus.yml`` says); its data are in ``directory``.

    Raises:
        ServerMissingError: there is no ``prometheus`` on ``PATH``.
        ServerError: it did not start, as when the configuration or one of its rules is wrong.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise ServerMissingError("Prometheus is missing: install the Debian package prometheus")
    directory.mkdir(parents=True, exist_ok=True)
    settings = directory / "prometheus.yml"
    # JSON is YAML, too.
    settings.write_text(json.dumps(configuration))

    def command(port: int) -> list[str]:
        listen = f"--web.listen-address={HOST}:{port}"
        return [binary, f"--config.file={settings}", f"--storage.tsdb.path={directory / 'tsdb'}", listen]

    process, port = _start("Prometheus", command, ready=_is_ready, log=directory / "prometheus.log", identity={})
    return Server(f"http://{HOST}:{port}", process.pid, process, signal.SIGTERM)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/-/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
