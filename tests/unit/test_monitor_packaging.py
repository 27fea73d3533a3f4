"""The monitor's image, manifests, unit and example: what they say exists, and is what they ought to be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from dashboards import prometheus_rule
from dashboards.alerts.monitor import JOBS
from loopwatch_monitor.addresses import Address, parse_address
from loopwatch_monitor.command import _command
from loopwatch_monitor.webconfig import read_web_config
from tests.integration.certificates import self_signed

MONITOR = Path(__file__).resolve().parents[2] / "monitor"
DOCKERFILE = (MONITOR / "Dockerfile").read_text()
UNIT = MONITOR / "systemd" / "loopwatch-monitor.service"
MANIFESTS = {path.name: yaml.safe_load(path.read_text()) for path in sorted((MONITOR / "kubernetes").glob("*.yaml"))}
FLAGS = {flag for option in _command.params if isinstance(option, click.Option) for flag in option.opts}
VARIABLES = {str(name) for option in _command.params for name in option.envvar or ()}


def deployment() -> dict[str, Any]:
    spec: dict[str, Any] = MANIFESTS["deployment.yaml"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (found,) = deployment()["containers"]
    return found  # type: ignore[no-any-return]


def test_there_are_all_manifests() -> None:
    kinds = {manifest["kind"] for manifest in MANIFESTS.values()}
    assert kinds == {"Deployment", "Service", "ServiceMonitor", "PrometheusRule"}


def test_flags_and_variables_exist() -> None:
    texts = [*container()["args"], UNIT.read_text().partition("ExecStart=")[2].partition("\n")[0]]
    used = {flag for text in texts for flag in re.findall(r"--[a-z][a-z.-]*", text)}
    assert used
    assert used <= FLAGS
    named = {variable["name"] for variable in container()["env"]} | set(re.findall(r"LOOPWATCH_\w+", DOCKERFILE))
    assert named <= VARIABLES


def test_the_deployment_is_confined() -> None:
    pod, context = deployment(), container()["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container()["resources"]["limits"]["memory"]


def test_only_live_may_kill_and_ready_holds_traffic_back() -> None:
    probes = {
        name: container()[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert probes == {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
    # With passwords, too.
    assert "--web.open-health" in container()["args"]


def test_it_listens_where_its_port_is_by_ipv4_and_ipv6() -> None:
    args = container()["args"]
    address = args[args.index("--web.listen-address") + 1]
    assert [Address(port=port["containerPort"]) for port in container()["ports"]] == [parse_address(address)]


def test_the_service_and_the_service_monitor_find_it() -> None:
    labels = MANIFESTS["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    service = MANIFESTS["service.yaml"]
    assert service["spec"]["selector"].items() <= labels.items()
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in [port["name"] for port in container()["ports"]]
    monitor = MANIFESTS["servicemonitor.yaml"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    # Also of an outage of the broker's, in which the monitor is not ready.
    assert service["spec"]["publishNotReadyAddresses"] is True
    # The rules and dashboards ask for this job.
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "loopwatch"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] == port["name"]
    assert endpoint["honorLabels"] is True
    # One fleet a namespace: the rules tell fleets apart by their job, and ask for this beginning.
    assert endpoint["relabelings"] == [{"sourceLabels": ["job", "namespace"], "separator": "-", "targetLabel": "job"}]
    assert JOBS == 'job=~"loopwatch.*"'


def test_the_rule_of_the_operator_is_the_rule_files() -> None:
    assert prometheus_rule.RULE.read_text() == prometheus_rule.render(), "make dashboards"
    groups = [
        group
        for path in sorted(prometheus_rule.RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert groups
    assert MANIFESTS["prometheusrule.yaml"]["spec"]["groups"] == groups


def test_the_image_is_nobodys_root_and_asks_for_its_health() -> None:
    *_, last = DOCKERFILE.split("\nFROM ")
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) > 0
    assert user == str(deployment()["securityContext"]["runAsUser"])
    assert "slim" in last.partition("\n")[0]
    assert "pip" not in last
    assert "/live" in last.partition("HEALTHCHECK")[2]


class Live(BaseHTTPRequestHandler):
    """What the health check asks. ``status``: what it is told."""

    status = 200

    def do_GET(self) -> None:
        """Answers."""
        self.send_response(self.status if self.path == "/live" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody wants it."""


@pytest.mark.parametrize("variable", ["LOOPWATCH_PORT", "CE_PORT"])
def test_the_health_check_asks_the_monitor_wherever_it_listens(variable: str) -> None:
    (line,) = re.findall(r"HEALTHCHECK .*\\\n +CMD (.*)", DOCKERFILE)
    program, *arguments = json.loads(line)
    assert program == "python"
    with ThreadingHTTPServer(("127.0.0.1", 0), Live) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # A proxy, as Docker's configuration may give one to each container, knows nothing of the container's own.
        environment = os.environ | {variable: str(server.server_port), "HTTP_PROXY": "http://127.0.0.1:9"}
        command = [sys.executable, *arguments]
        for Live.status, code in ((200, 0), (503, 1)):
            assert subprocess.run(command, env=environment, check=False).returncode == code
        server.shutdown()


def test_the_example_of_a_web_configuration_is_right(tmp_path: Path) -> None:
    both = self_signed(tmp_path).read_text()
    for name in ("server.crt", "server.key"):
        (tmp_path / name).write_text(both)
    example = tmp_path / "web-config.yml"
    example.write_text((MONITOR / "web-config.yml").read_text())
    config = read_web_config(example)
    assert config.tls is not None
    assert [*config.users] == ["prometheus"]


def test_the_unit_leaves_the_monitor_what_its_own_metrics_come_from() -> None:
    assert not re.search(r"(?m)^ProcSubset=", UNIT.read_text())  # `pid` hides /proc/stat


def test_systemd_knows_every_word_of_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is missing")
    unit = tmp_path / UNIT.name
    # The program stands elsewhere here.
    unit.write_text(UNIT.read_text().replace("/opt/loopwatch/bin/loopwatch", "/bin/true"))
    command = [analyze, "verify", "--man=no", str(unit)]
    result = subprocess.run(command, capture_output=True, check=False, text=True, env=os.environ | {"LC_ALL": "C"})
    complaints = [line for line in result.stderr.splitlines() if UNIT.name in line]
    assert complaints == []
