"""docker-compose.yml works: its commands, environment, files and health checks, on this machine without containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests.acceptance.client import Client
from tests.acceptance.compose import Compose
from tests.acceptance.operations import ask, operations, query
from tests.acceptance.process_groups import members
from tests.acceptance.stack import ROOT, eventually

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    with operations() as stack:
        yield stack


def test_every_service_is_healthy(stack: Compose) -> None:
    services = {name for name, service in stack.services.items() if not service.profiles}
    assert {*stack.running} == services - stack.skipped.keys()
    assert stack.skipped.keys() == {"grafana"}


def test_prometheus_knows_its_targets_rules_and_alertmanager(stack: Compose) -> None:
    def up() -> bool:
        targets = ask(stack, "targets")["activeTargets"]
        assert {target["labels"]["job"] for target in targets} == {"loopwatch", "prometheus", "alertmanager"}
        return {target["health"] for target in targets} == {"up"}

    eventually(up, what="all targets are up")
    rules = [rule["name"] for group in ask(stack, "rules")["groups"] for rule in group["rules"]]
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "dashboards/prometheus/rules").glob("*.yml")]
    written = [rule for file in files for group in file["groups"] for rule in group["rules"]]
    assert sorted(rules) == sorted(rule.get("alert") or rule["record"] for rule in written)
    [alertmanager] = ask(stack, "alertmanagers")["activeAlertmanagers"]
    assert alertmanager["url"].startswith(stack.url("alertmanager"))


def test_a_roadmap_is_made_and_prometheus_hears_of_it(stack: Compose) -> None:
    client = Client(stack.url("api"))
    task = client.begin("Learn the violin")
    client.reaches(task, "waiting_for_review")
    client.review(task, approved=True)
    client.reaches(task, "completed")

    def seen() -> set[str]:
        return {row["metric"]["hostname"] for row in query(stack, "celery_task_succeeded_total > 0")}

    nodes = {"logs@worker", "content@worker", "workflow@worker"}
    eventually(lambda: seen() == nodes, what="the tasks of all three workers")
    assert query(stack, "loopwatch_loop_conflicts_total") == []


def test_everything_stops_within_its_grace_period(stack: Compose) -> None:
    groups = [stack.pid(name) for name in stack.running]
    codes = stack.stop()
    assert codes == dict.fromkeys(codes, 0)
    assert len(codes) == len(groups)
    assert [pid for group in groups for pid in members(group)] == []
