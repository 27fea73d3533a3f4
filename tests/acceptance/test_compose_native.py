"""docker-compose.yml works: its commands, environment, files and health checks, on this machine without containers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.acceptance.client import Client
from tests.acceptance.compose import Compose
from tests.acceptance.compose_file import ComposeError
from tests.acceptance.operations import ask, operations, query
from tests.acceptance.process_groups import descendants, members, memory, within
from tests.acceptance.stack import ROOT, eventually

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    with operations() as stack:
        yield stack


def _nodes(stack: Compose, expression: str) -> set[str]:
    return {row["metric"]["hostname"] for row in query(stack, expression)}


def test_every_service_is_healthy(stack: Compose) -> None:
    services = {name for name, service in stack.services.items() if not service.profiles}
    assert {*stack.running} == services - stack.skipped.keys()
    assert stack.skipped.keys() == {"grafana"}


def test_prometheus_knows_its_targets_rules_and_alertmanager(stack: Compose) -> None:
    eventually(lambda: _targets(stack) == {"up"}, what="all targets are up")
    rules = [rule["name"] for group in ask(stack, "rules")["groups"] for rule in group["rules"]]
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "dashboards/prometheus/rules").glob("*.yml")]
    written = [rule for file in files for group in file["groups"] for rule in group["rules"]]
    assert sorted(rules) == sorted(rule.get("alert") or rule["record"] for rule in written)
    [alertmanager] = ask(stack, "alertmanagers")["activeAlertmanagers"]
    assert alertmanager["url"].startswith(stack.url("alertmanager"))


def _targets(stack: Compose) -> set[str]:
    """In what health they are."""
    targets = ask(stack, "targets")["activeTargets"]
    assert {target["labels"]["job"] for target in targets} == {"loopwatch", "prometheus", "alertmanager"}
    return {target["health"] for target in targets}


def test_a_roadmap_is_made_and_prometheus_hears_of_it(stack: Compose) -> None:
    client = Client(stack.url("api"))
    task = client.begin("Learn the violin")
    client.reaches(task, "waiting_for_review")
    client.review(task, approved=True)
    client.reaches(task, "completed")
    nodes = {"logs@worker", "content@worker", "workflow@worker"}
    eventually(lambda: _nodes(stack, "celery_task_succeeded_total > 0") == nodes, what="the tasks of all workers")
    assert query(stack, "loopwatch_loop_conflicts_total") == []


def test_the_profile_adds_workers_of_other_names(stack: Compose) -> None:
    stack.start("celery_logs_global")
    assert "celery_logs_global" in stack.running
    eventually(lambda: "logs@global.worker" in _nodes(stack, "loopwatch_worker_info"), what="the worker in Prometheus")


def test_a_service_that_was_killed_is_started_again_where_it_was(stack: Compose) -> None:
    url = stack.url("monitor")
    stack.kill("monitor")
    assert "monitor" not in stack.running
    eventually(lambda: _targets(stack) == {"up", "down"}, what="Prometheus misses the monitor")
    stack.start("monitor")
    assert stack.url("monitor") == url
    eventually(lambda: _targets(stack) == {"up"}, what="all targets are up")


def test_no_service_needs_half_of_its_limit(stack: Compose) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in stack.running:
        limit = services[name]["deploy"]["resources"]["limits"]["memory"]
        bytes_allowed = int(limit[:-1]) * {"M": 1 << 20, "G": 1 << 30}[limit[-1]]
        used = memory(descendants(stack.pid(name)))
        assert 0 < used < bytes_allowed / 2, f"{name}: {used >> 20} MB of {limit}"


def test_everything_stops_within_its_grace_period(stack: Compose) -> None:
    groups = [stack.pid(name) for name in stack.running]
    codes = stack.stop()
    assert codes == dict.fromkeys(codes, 0)
    assert len(codes) == len(groups)
    assert [pid for group in groups for pid in members(group)] == []


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go."""
    # Not pytest's tmp_path: PostgreSQL runs as another user when we are root.
    directory = Path(tempfile.mkdtemp(prefix="loopwatch-test-"))
    directory.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    for pid in within(directory):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory)


def test_a_start_that_fails_says_why_and_leaves_nothing(directory: Path) -> None:
    with (
        pytest.raises(ComposeError, match="set it to loop_aware or global"),
        operations(environment={"APP_RESOURCES": "best"}),
    ):
        pytest.fail("it cannot be healthy")
    assert within(directory) == []
    assert list(directory.iterdir()) == []


STARTS = """
import subprocess, time
from tests.acceptance.process_groups import Warden
with Warden() as warden:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    warden.add(process.pid)
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_nothing_outlives_a_test_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], cwd=ROOT, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        started = int(tests.stdout.readline())
        assert members(started) == [started]
        tests.kill()
    eventually(lambda: members(started) == [], what="it has ended, too")
