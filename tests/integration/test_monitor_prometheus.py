"""A real Prometheus scrapes the monitor by TLS, with a password and a client certificate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import pytest

from tests.integration.certificates import self_signed
from tests.integration.monitor_process import running_monitor, until
from tests.ports import server_port

SCRAPES = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: right
    scheme: https
    basic_auth: {{username: ann, password: secret}}
    tls_config: {{ca_file: {pem}, cert_file: {pem}, key_file: {pem}}}
    static_configs: [{{targets: ["{target}"]}}]
  - job_name: wrong-password
    scheme: https
    basic_auth: {{username: ann, password: guessed}}
    tls_config: {{ca_file: {pem}, cert_file: {pem}, key_file: {pem}}}
    static_configs: [{{targets: ["{target}"]}}]
  - job_name: no-certificate
    scheme: https
    basic_auth: {{username: ann, password: secret}}
    tls_config: {{ca_file: {pem}}}
    static_configs: [{{targets: ["{target}"]}}]
"""


def test_a_guarded_monitor_is_scraped(redis_url: str, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("prometheus is missing: install the Debian package")
    pem, guard, scrapes, port = self_signed(tmp_path), tmp_path / "web.yml", tmp_path / "prometheus.yml", server_port()
    guard.write_text("")
    with running_monitor(redis_url, tmp_path, "--web.config.file", str(guard)) as monitor:
        guard.write_text(f"""
tls_server_config:
  cert_file: {pem}
  key_file: {pem}
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: {pem}
basic_auth_users:
  ann: {bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}
""")
        scrapes.write_text(SCRAPES.format(pem=pem, target=urlsplit(monitor.url).netloc))
        command = [prometheus, f"--config.file={scrapes}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        log = tmp_path / "prometheus.log"
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            errors: dict[str, str] = {}

            def as_they_should_be() -> bool:
                # Not the first ones for good: on a machine under load a scrape may take longer than it may.
                errors.update(_errors(port))
                return errors.get("right") == "" and "status 401" in errors.get("wrong-password", "")

            def third() -> bool:
                errors.update(_errors(port))
                return "no-certificate" in errors

            try:
                until(as_they_should_be, f"a scrape, and a refusal: {errors}, {log}")
                until(third, f"the third: {log}")
            finally:
                process.terminate()
    assert errors["no-certificate"]
    assert "status 401" not in errors["no-certificate"]


def _errors(port: int) -> dict[str, str]:
    """The last scrape's error by job; jobs that were scraped alone."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5) as response:
            targets = json.load(response)["data"]["activeTargets"]
    except OSError:
        return {}
    return {target["labels"]["job"]: target["lastError"] for target in targets if target["health"] != "unknown"}
