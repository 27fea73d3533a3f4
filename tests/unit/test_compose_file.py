"""The native runner's reading and translating of docker-compose.yml."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance import compose_file, compose_places
from tests.acceptance.compose_file import WITHOUT_EFFECT, ComposeError, Health, Mount, Service, read_compose
from tests.acceptance.compose_places import Places
from tests.acceptance.compose_rules import Image, image_of

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"


def read(tmp_path: Path, variables: dict[str, str] | None = None, **service: Any) -> Service:
    """A service ``s`` as it is read."""
    path = tmp_path / "docker-compose.yml"
    path.write_text(yaml.safe_dump({"services": {"s": {"image": "redis:7"} | service}}))
    return read_compose(path, variables or {})["s"]


@pytest.mark.parametrize("module", [compose_file, compose_places])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)


def test_the_file_is_read_with_its_merge_keys_and_variables() -> None:
    services = read_compose(FILE, {"WEB_CONCURRENCY": "2", "APP_RESOURCES": ""})
    api, sick = services["api"], services["celery_content_global"]
    assert api.needs == ("postgres", "redis")
    assert api.environment["WEB_CONCURRENCY"] == "2"
    # `:-`: an empty variable counts as none.
    assert api.environment["APP_RESOURCES"] == "loop_aware"
    assert api.published == {8080: 8080}
    assert sick.environment == {**api.environment, "APP_RESOURCES": "global", "CELERY_NODE_HOST": "global.%h"}
    assert (sick.profiles, sick.stop_grace_period, sick.hostname) == (("sick",), 30.0, "worker")
    assert sick.health is not None
    assert sick.health.command[:2] == ("/bin/sh", "-c")
    assert services["postgres"].stop_signal == "SIGINT"
    assert services["prometheus"].mounts[-1] == Mount(source="prometheus", target="/prometheus")


def test_texts_and_lists_mean_the_same(tmp_path: Path) -> None:
    as_texts = read(
        tmp_path,
        {"PORT": "1"},
        command="redis-server --port ${PORT} 'a b'",
        entrypoint="/bin/run $$HOME",
        environment=["A=1", "B=x=y"],
        depends_on=["other"],
        healthcheck={"test": "true", "interval": "1m30s"},
    )
    as_lists = read(
        tmp_path,
        command=["redis-server", "--port", 1, "a b"],
        entrypoint=["/bin/run", "$$HOME"],
        environment={"A": 1, "B": "x=y"},
        depends_on={"other": {"condition": "service_healthy"}},
        healthcheck={"test": ["CMD-SHELL", "true"], "interval": "90s"},
    )
    assert as_texts == as_lists
    assert as_lists.health == Health(command=("/bin/sh", "-c", "true"), interval=90.0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"networks": ["a"]}, "s: networks: teach compose_file.py"),
        ({"depends_on": {"a": {"condition": "service_started"}}}, "service_healthy alone"),
        ({"healthcheck": {"test": ["NONE"]}}, "CMD or CMD-SHELL"),
        ({"healthcheck": {"test": "true", "interval": "soon"}}, "no duration"),
        ({"ports": ["8080:8080"]}, "127.0.0.1:HOST:CONTAINER"),
        ({"volumes": ["/data"]}, "SOURCE:/TARGET"),
        ({"command": "${NOWHERE}"}, "no variable that is set"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ComposeError, match=says):
        read(tmp_path, **wrong)


def test_no_key_is_declared_in_vain() -> None:
    used = {key for service in yaml.safe_load(FILE.read_text())["services"].values() for key in service}
    assert used >= WITHOUT_EFFECT.keys()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    services = read_compose(FILE, {})
    images = {name: image_of(service, ROOT) for name, service in services.items() if name != "grafana"}
    return Places(ROOT, tmp_path, services, images, {})


def test_an_image_without_a_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=r"s: rabbitmq: declare in compose_rules\.py"):
        image_of(read(tmp_path, image="rabbitmq:4"), ROOT)


def test_hosts_and_ports_are_translated(places: Places) -> None:
    redis, own, api = (places.ports.of(name) for name in ("redis", "prometheus", "api"))
    translate = places.ports.translate
    assert translate("api", "redis://redis:6379/0") == f"redis://127.0.0.1:{redis}/0"
    assert translate("api", "http://llm:8090/v1") == f"http://127.0.0.1:{places.ports.of('llm')}/v1"
    assert translate("prometheus", "http://127.0.0.1:9090/x") == f"http://127.0.0.1:{own}/x"
    assert translate("monitor", "http://localhost:8080/") == f"http://127.0.0.1:{api}/"
    # Nobody's: Grafana does not run here, and this is no host at all.
    assert translate("prometheus", "http://localhost:3000/d/x") == "http://localhost:3000/d/x"
    assert translate("prometheus", "xredis:6379 process:loopwatch:rate5m") == "xredis:6379 process:loopwatch:rate5m"
    assert translate("api", "0.0.0.0") == "127.0.0.1"


def test_no_port_is_the_containers_or_another_services(places: Places) -> None:
    names = ("postgres", "redis", "llm", "api", "monitor", "prometheus", "alertmanager")
    ports = {places.ports.of(name) for name in names}
    assert len(ports) == len(names)
    assert places.ports.of("llm") == places.ports.of("llm", 8090)
    assert not ports & {5432, 6379, 8090, 8080, 9808, 9090, 9093}


def test_commands_and_files_are_translated(places: Places, tmp_path: Path) -> None:
    places.lay_files("prometheus")
    config = tmp_path / "prometheus/files/etc/prometheus/prometheus.yml"
    written = yaml.safe_load(config.read_text())
    assert written["rule_files"] == [f"{tmp_path}/prometheus/files/etc/prometheus/rules/*.yml"]
    assert written["scrape_configs"][0]["static_configs"] == [{"targets": [f"127.0.0.1:{places.ports.of('monitor')}"]}]
    words = ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", "--port", "9090"]
    assert places.words("prometheus", words) == [
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path}/volumes/prometheus",
        "--port",
        str(places.ports.of("prometheus")),
    ]


def test_workers_have_the_node_names_of_their_containers(places: Places) -> None:
    assert places.environment("celery_logs")["CELERY_NODE_HOST"] == "worker"
    assert places.environment("celery_logs_global")["CELERY_NODE_HOST"] == "global.worker"


def test_a_file_that_nothing_mounts_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=r"nothing mounts \./dashboards/rules; there is"):
        Places(ROOT, tmp_path, read_compose(FILE, {}), {}, {"./dashboards/rules": tmp_path})


def test_the_images_are_what_their_dockerfiles_say() -> None:
    services = read_compose(FILE, {})
    monitor, api = image_of(services["monitor"], ROOT), image_of(services["api"], ROOT)
    assert (monitor.entrypoint, monitor.command) == (("loopwatch", "monitor"), ())
    assert (api.entrypoint, api.command) == (("app/scripts/entrypoint.sh",), ("api",))
    assert monitor.environment == {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    assert isinstance(image_of(services["redis"], ROOT), Image)
