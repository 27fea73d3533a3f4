"""docker-compose.yml: the demo's roles, pinned, limited, confined, and reachable from this machine only."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.demo.phases import GLOBAL_HOST

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = {"celery_logs": "logs", "celery_content": "content", "celery_workflow": "workflow"}
"""The node's name by the worker's role."""
SICK = {f"{role}_global": role for role in WORKERS}
APPLICATION = {"api", *WORKERS}
WATCHING = {"monitor", "prometheus", "alertmanager", "grafana"}

every_service = pytest.mark.parametrize("name", sorted(SERVICES))


def _validated(path: Path) -> subprocess.CompletedProcess[str]:
    if find_spec("check_jsonschema") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("not installed: pip install check-jsonschema")
    # The schema of the Compose Specification comes with it, and is newer with each release of it.
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_follows_the_compose_specification() -> None:
    result = _validated(FILE)
    assert result.returncode == 0, result.stdout


def test_the_specification_finds_a_misspelt_key(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("    stop_signal:", "    stop_signals:"))
    result = _validated(wrong)
    assert result.returncode == 1
    assert "stop_signals" in result.stdout


def test_the_services_are_the_demos() -> None:
    assert set(SERVICES) == APPLICATION | {"postgres", "redis", "llm"} | WATCHING | SICK.keys()


@pytest.mark.parametrize("name", sorted(APPLICATION))
def test_the_application_runs_the_entrypoints_roles(name: str) -> None:
    assert SERVICES[name]["command"] == [name]
    assert SERVICES[name]["build"]["dockerfile"] == "app/Dockerfile"
    assert "entrypoint" not in SERVICES[name]
    entrypoint = ROOT / "app" / "scripts" / "entrypoint.sh"
    assert 'ENTRYPOINT ["app/scripts/entrypoint.sh"]' in (ROOT / "app" / "Dockerfile").read_text()
    assert re.search(rf"^(?:.*\| )?{name}\b.*\)", entrypoint.read_text(), re.MULTILINE)
    assert entrypoint.stat().st_mode & 0o111


@pytest.mark.parametrize(("name", "role"), SICK.items())
def test_the_sick_are_the_healthy_with_a_shared_client_and_other_names(name: str, role: str) -> None:
    sick, healthy = SERVICES[name], SERVICES[role]
    assert sick["profiles"] == ["sick"]
    assert sick["environment"].items() - healthy["environment"].items() == {
        ("APP_RESOURCES", "global"),
        ("CELERY_NODE_HOST", GLOBAL_HOST),
    }
    own = {"profiles", "environment", "healthcheck"}
    assert {key: sick[key] for key in sick.keys() - own} == {key: healthy[key] for key in healthy.keys() - own}


def test_only_the_sick_wait_to_be_asked_for() -> None:
    assert {name for name in SERVICES if "profiles" in SERVICES[name]} == SICK.keys()


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
    health = SERVICES[name]["healthcheck"]
    assert health["test"]
    assert health.keys() == {"test", "interval", "timeout", "retries", "start_period", "start_interval"}


@every_service
def test_ports_are_this_machines(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_only_what_has_a_page_is_published() -> None:
    assert {name for name in SERVICES if "ports" in SERVICES[name]} == {"api", *WATCHING}


@every_service
def test_it_is_limited(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert re.fullmatch(r"\d+[MG]", limits["memory"])
    assert float(limits["cpus"]) > 0
    assert SERVICES[name]["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


@every_service
def test_it_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert "cap_add" not in service
    assert "privileged" not in service
    # The entrypoints of these begin as root, to change the owner of their files: they are told not to.
    assert service.get("user") == {"postgres": "postgres", "redis": "redis"}.get(name)


@every_service
def test_it_waits_for_what_exists(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert how == {"condition": "service_healthy"}


@every_service
def test_the_files_it_mounts_exist_and_are_only_read(name: str) -> None:
    used = set()
    for volume in SERVICES[name].get("volumes", []):
        source, _, *mode = volume.split(":")
        if source in COMPOSE["volumes"]:
            used.add(source)
        else:
            assert (ROOT / source).exists()
            assert mode == ["ro"]
    assert used == ({name} if name in COMPOSE["volumes"] else set())


def test_grafana_finds_its_dashboards_and_its_home_is_one() -> None:
    inside = {volume.split(":")[0]: volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    provider = yaml.safe_load((ROOT / "dashboards/provisioning/dashboards/loopwatch.yml").read_text())["providers"][0]
    assert provider["options"]["path"] == inside["./dashboards/grafana"]
    assert inside["./dashboards/provisioning"] == "/etc/grafana/provisioning"
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == inside["./dashboards/grafana"]
    assert (ROOT / "dashboards/grafana" / home.name).exists()


def test_prometheus_and_grafana_ask_services_that_are_there() -> None:
    provisioning = [*(ROOT / "dashboards/provisioning/datasources").glob("*.yml")]
    sources = [source for path in provisioning for source in yaml.safe_load(path.read_text())["datasources"]]
    assert {source["url"] for source in sources} == {"http://prometheus:9090", "http://alertmanager:9093"}
    prometheus = yaml.safe_load((ROOT / "dashboards/prometheus/prometheus.yml").read_text())
    (alertmanagers,) = prometheus["alerting"]["alertmanagers"]
    scraped = [*prometheus["scrape_configs"], alertmanagers]
    targets = {target for job in scraped for static in job["static_configs"] for target in static["targets"]}
    assert targets == {"monitor:9808", "localhost:9090", "alertmanager:9093"}
    assert "./dashboards/prometheus/rules:/etc/prometheus/rules:ro" in SERVICES["prometheus"]["volumes"]


@pytest.mark.parametrize("name", ["prometheus", "alertmanager"])
def test_links_lead_to_the_published_ports(name: str) -> None:
    (port,) = SERVICES[name]["ports"]
    assert f"--web.external-url=http://localhost:{port.split(':')[1]}" in SERVICES[name]["command"]


@pytest.mark.parametrize(("name", "role"), [*zip(WORKERS, WORKERS, strict=True), *SICK.items()])
def test_the_workers_names_are_the_ones_that_are_pinged(name: str, role: str) -> None:
    service = SERVICES[name]
    host = service["environment"].get("CELERY_NODE_HOST", "%h").replace("%h", service["hostname"])
    assert f"--destination {WORKERS[role]}@{host} " in service["healthcheck"]["test"][1]
