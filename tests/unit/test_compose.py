"""docker-compose.yml: the demo's roles, pinned, and reachable from this machine only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APPLICATION = {"api", "celery_logs", "celery_content", "celery_workflow"}

every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def test_the_services_are_the_demos() -> None:
    assert set(SERVICES) == APPLICATION | {"postgres", "redis", "llm", "monitor", "prometheus", "grafana"}


@pytest.mark.parametrize("name", sorted(APPLICATION))
def test_the_application_runs_the_entrypoints_roles(name: str) -> None:
    assert SERVICES[name]["command"] == [name]
    assert SERVICES[name]["build"]["dockerfile"] == "app/Dockerfile"
    assert "entrypoint" not in SERVICES[name]
    entrypoint = ROOT / "app" / "scripts" / "entrypoint.sh"
    assert 'ENTRYPOINT ["app/scripts/entrypoint.sh"]' in (ROOT / "app" / "Dockerfile").read_text()
    assert re.search(rf"^(?:.*\| )?{name}\b.*\)", entrypoint.read_text(), re.MULTILINE)
    assert entrypoint.stat().st_mode & 0o111


@every_service
def test_versions_are_pinned(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        first = (ROOT / service["build"]["dockerfile"]).read_text()
        images = re.findall(r"^FROM (\S+)", first, re.MULTILINE)
    else:
        images = [service["image"]]
    assert images
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?\b", image), image


@every_service
def test_its_health_is_checked(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


@every_service
def test_ports_are_this_machines(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every_service
def test_it_waits_for_what_exists(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert how == {"condition": "service_healthy"}


@every_service
def test_the_files_it_mounts_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.partition(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).exists()


def test_grafana_finds_its_dashboards_and_prometheus_its_rules() -> None:
    inside = {volume.split(":")[0]: volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    provider = yaml.safe_load((ROOT / "dashboards/provisioning/dashboards/loopwatch.yml").read_text())["providers"][0]
    assert provider["options"]["path"] == inside["./dashboards/grafana"]
    assert inside["./dashboards/provisioning"] == "/etc/grafana/provisioning"
    assert "./dashboards/prometheus/rules:/etc/prometheus/rules:ro" in SERVICES["prometheus"]["volumes"]
    datasource = yaml.safe_load((ROOT / "dashboards/provisioning/datasources/prometheus.yml").read_text())
    assert datasource["datasources"][0]["url"] == "http://prometheus:9090"


def test_the_workers_names_are_the_ones_that_are_pinged() -> None:
    for role, node in (("celery_logs", "logs"), ("celery_content", "content"), ("celery_workflow", "workflow")):
        assert f"--destination {node}@{SERVICES[role]['hostname']} " in SERVICES[role]["healthcheck"]["test"][1]
