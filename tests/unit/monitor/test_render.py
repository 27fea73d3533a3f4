"""The page: read back by prometheus_client's parser, and approved by promtool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.wire import EVENT_TYPE, NodeInfo, NodeSnapshot, Table, Value
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.batch import Batch
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.negotiate import Format
from loopwatch_monitor.render import Renderer
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.labels import Labels
from loopwatch_monitor.state.ledger import Now
from loopwatch_monitor.state.queues import Depth
from tests.unit.monitor.monitored import batch


def a_hub(**settings: Any) -> Hub:
    return Hub(Settings(broker_url="memory://", **settings), status=BrokerStatus(up=True), version="1.2.3")


def event(kind: str, **fields: object) -> dict[str, object]:
    return {"type": kind, "hostname": "w@h", "timestamp": 1.0, "utcoffset": 0, "pid": 1, "clock": 1} | fields


def receive(hub: Hub, *events: dict[str, object]) -> None:
    hub.receive(batch(json.dumps(events).encode()))


def a_snapshot() -> dict[str, object]:
    """One row of every family that processes report."""
    counters: Table = {}
    gauges: Table = {}
    for metric in catalogue.METRICS:
        if metric.origin == "process":
            labels = tuple(f"the-{label}" for label in metric.own_labels)
            value: Value = [1] * (len(metric.buckets) + 1) + [0.5] if metric.kind == "histogram" else 1
            (gauges if metric.kind == "gauge" else counters)[metric.wire_name] = {labels: value}
    # The database of the pools above.
    info = NodeInfo(queues=["logs"], pool_type="prefork", start_time=1.0)
    return event(EVENT_TYPE, **NodeSnapshot("boot", 1, 5.0, info, counters, {0: gauges}).to_fields())


def everything(**settings: Any) -> Hub:
    """A hub in which every family but the refusals has a series."""
    hub = a_hub(**settings)
    receive(
        hub,
        event("worker-heartbeat", active=1),
        *(event("task-sent", uuid=uuid, name="t", queue="q") for uuid in "12345"),
        event("task-received", uuid="1", name="t"),
        event("task-started", uuid="1"),
        event("task-succeeded", uuid="1", runtime=0.1),
        event("task-failed", uuid="2", exception="E()", traceback=""),
        event("task-retried", uuid="3", exception="E()", traceback=""),
        event("task-revoked", uuid="4"),
        event("task-rejected", uuid="5"),
        a_snapshot(),
    )
    hub.measured({"q": Depth(length=1, consumers=1)})
    return hub


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def test_every_family_of_the_catalogue_is_on_the_page_with_its_labels() -> None:
    found: dict[str, set[str]] = {}
    for name, labels in samples(everything().page()):
        found.setdefault(name, set()).update(dict(labels))
    for metric in catalogue.METRICS:
        if metric is catalogue.MONITOR_SERIES_DROPPED:
            continue
        for name in metric.sample_names():
            assert found[name] == set(metric.labels) | ({"le"} if name.endswith("_bucket") else set())


def openmetrics(hub: Hub) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page = b"".join(hub.pieces(Format.OPENMETRICS)).decode()
    assert page.endswith("\n# EOF\n")
    assert page.count("# EOF") == 1
    families = list(openmetrics_families(page))  # type: ignore[no-untyped-call]
    assert len(families) == len({family.name for family in families})
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


ACTIVE = ("celery_active_consumer_count", "celery_active_process_count", "celery_active_worker_count")
VOLATILE = (
    "process_",
    "python_gc_",
    "loopwatch_worker_snapshot_age",
    "loopwatch_queue_oldest",
    "loopwatch_monitor_poll_age",
)


def test_openmetrics_says_the_same() -> None:
    hub = everything(static_labels={"env": "prod"})
    text, found = samples(hub.page()), openmetrics(hub)
    assert set(found) == set(text)
    for key in found:
        if not key[0].startswith(VOLATILE):
            assert found[key] == text[key], key
    assert any(name == "process_cpu_seconds_total" for name, _ in found)


def test_openmetrics_counters_are_families_without_total() -> None:
    page = b"".join(everything().pieces(Format.OPENMETRICS)).decode()
    assert "# TYPE celery_task_sent counter\n" in page
    assert 'celery_task_sent_total{name="t"' in page
    assert "# TYPE process_cpu_seconds counter\n" in page
    assert "# TYPE celery_task_runtime histogram\n" in page


@pytest.mark.parametrize("form", Format)
def test_created_when_it_is_asked_for(form: Format) -> None:
    now = [1000.0]
    hub = Hub(
        Settings(broker_url="memory://", created_timestamps=True),
        status=BrokerStatus(up=True),
        version="1",
        clock=lambda: Now(now[0], now[0]),
    )
    for now[0], name in ((2000.0, "a"), (3000.0, "b"), (4000.0, "a")):
        receive(
            hub,
            event("worker-heartbeat", active=1),
            event("task-sent", uuid=name, name=name, queue="q"),
            event("task-started", uuid=name),
            event("task-succeeded", uuid=name, runtime=0.1),
            event("task-sent", uuid="f", name="f", queue="q"),
            event("task-failed", uuid="f", exception="E()", traceback=""),
        )
    receive(hub, a_snapshot())
    found = openmetrics(hub) if form is Format.OPENMETRICS else samples(hub.page())
    born = {(name, dict(labels).get("name", "")): value for (name, labels), value in found.items()
            if name.endswith("_created")}  # fmt: skip
    assert born["celery_task_sent_created", "a"] == 2000.0
    assert born["celery_task_sent_created", "b"] == 3000.0
    assert born["celery_task_runtime_created", "b"] == 3000.0
    assert born["celery_task_failed_created", "f"] == 2000.0
    assert born["loopwatch_pool_wait_seconds_created", ""] == 4000.0
    assert born["loopwatch_monitor_snapshots_created", ""] == 1000.0
    counting = {name for name, _ in found if name.endswith(("_total", "_count"))} - {*ACTIVE}
    ours = {
        name.removesuffix("_total").removesuffix("_count") for name in counting if name.startswith(("celery", "loop"))
    }
    assert {name.removesuffix("_created") for name, _ in born} == ours


def test_names_restrict_the_page() -> None:
    hub = everything(metric_prefix="shop_")
    wanted = frozenset({"shop_task_runtime_bucket", "loopwatch_loops", "process_open_fds", "nonsense"})
    names = {name for name, _ in samples(b"".join(hub.pieces(names=wanted)))}
    assert names == {*(f"shop_task_runtime_{part}" for part in ("bucket", "count", "sum")), "loopwatch_loops",
                     "process_open_fds"}  # fmt: skip


def test_events_are_folded_while_a_page_is_made() -> None:
    """The lock is free between two slices, and what is born or dropped meanwhile does no harm."""
    hub = a_hub(worker_timeout=1.0, purge_offline_worker_metrics=1.0)
    receive(hub, *(event("task-sent", uuid=str(number), name=f"t{number}", queue="q") for number in range(5000)))
    seen = 0
    for piece in hub.pieces():
        seen += piece.count(b'celery_task_sent_total{name="t')
        receive(hub, event("task-sent", uuid="x", name=f"new{seen}", queue="q"), a_snapshot())
    assert seen == 5000


def test_the_monitors_own_process_is_on_the_page() -> None:
    names = {name for name, _ in samples(a_hub().page())}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "python_info"} <= names


def test_no_created_series_and_no_series_of_what_never_happened() -> None:
    names = {name for name, _ in samples(a_hub().page())}
    assert not [name for name in names if name.endswith("_created")]
    assert not [name for name in names if name.startswith("celery_")]


def test_promtool_complains_of_nothing_but_celery_exporters_names() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("promtool is missing: install prometheus")
    page = everything().page()
    result = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    complaints = result.stderr.decode().splitlines()
    assert sorted(line.split()[0] for line in complaints) == sorted(ACTIVE)
    assert all('should not have "_count" suffix' in line for line in complaints)


def test_buckets_are_cumulative_and_named_as_prometheus_client_names_them() -> None:
    metric = Metric("x_seconds", "histogram", "X.", ("a",), (0.5, 5.0))
    renderer = Renderer()
    text = renderer.head(metric, Format.TEXT) + renderer.lines(metric, [('a="1"', [1, 2, 3, 9.5])])
    assert text == (
        "# HELP x_seconds X.\n"
        "# TYPE x_seconds histogram\n"
        'x_seconds_bucket{a="1",le="0.5"} 1\n'
        'x_seconds_bucket{a="1",le="5.0"} 3\n'
        'x_seconds_bucket{a="1",le="+Inf"} 6\n'
        'x_seconds_count{a="1"} 6\n'
        'x_seconds_sum{a="1"} 9.5\n'
    )


def test_a_histogram_without_labels() -> None:
    text = Renderer().lines(Metric("x", "histogram", "X.", (), (1.0,)), [("", [1, 0, 0.5])])
    assert 'x_bucket{le="1.0"} 1\n' in text
    assert "x_count 1\nx_sum 0.5\n" in text


def test_buckets_of_the_settings() -> None:
    page = everything(buckets=(1.0, 20.0), queue_wait_buckets=(7.0,)).page()
    bounds = {(name, dict(labels)["le"]) for name, labels in samples(page) if name.startswith("celery_task_")
              and name.endswith("_bucket")}  # fmt: skip
    assert bounds == {
        *(("celery_task_runtime_bucket", le) for le in ("1.0", "20.0", "+Inf")),
        *(("celery_task_queue_wait_time_bucket", le) for le in ("7.0", "+Inf")),
    }


def test_the_prefix_is_that_of_celerys_metrics_alone() -> None:
    names = {name for name, _ in samples(everything(metric_prefix="shop_").page())}
    assert "shop_task_sent_total" in names
    assert "loopwatch_loops" in names
    assert not [name for name in names if name.startswith("celery_")]


def test_static_labels_are_on_every_series() -> None:
    hub = everything(static_labels={"env": 'pro"d'})
    for _, labels in [*samples(hub.page()), *samples(hub.page()), *openmetrics(hub)]:
        assert ("env", 'pro"d') in labels


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\u2028b", "a\\nb", "ü", "{}", 'x",y="'])
def test_any_label_value_comes_back_as_it_was(name: str) -> None:
    hub = a_hub()
    receive(hub, event("task-sent", uuid="1", name=name, queue="q"))
    (labels,) = (dict(labels) for sample, labels in samples(hub.page()) if sample == "celery_task_sent_total")
    assert labels["name"] == name


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85"), max_size=50)))
def test_any_label_values_come_back(values: list[str]) -> None:
    names = tuple(f"l{number}" for number in range(len(values)))
    text = Labels().text(names, values)
    (family,) = text_string_to_metric_families(f"# TYPE x gauge\nx{{{text}}} 1\n")
    assert family.samples[0].labels == dict(zip(names, values, strict=True))


def test_a_lone_surrogate_does_not_cost_the_page() -> None:
    hub = a_hub()
    receive(hub, event("task-sent", uuid="1", name="\ud800", queue="q"))
    assert b'name="?"' in hub.page()


POISONED: dict[str, Callable[[int], dict[str, object]]] = {
    "20,000 task names": lambda number: event("task-sent", uuid=str(number), name=f"t{number}", queue="q"),
    "20,000 exception classes": lambda number: event("task-failed", uuid="1", exception=f"E{number}()"),
    "5,000 hosts and more": lambda number: event("worker-heartbeat", hostname=f"w{number}@h"),
}


@pytest.mark.parametrize("make", POISONED.values(), ids=POISONED.keys())
def test_a_flood_grows_no_table_past_its_bound(make: Callable[[int], dict[str, object]]) -> None:
    hub = a_hub()
    receive(hub, *(make(number) for number in range(20_000)))
    found = samples(hub.page())
    for (name, labels), entries in found.items():
        if name == "loopwatch_monitor_table_entries":
            assert entries <= found["loopwatch_monitor_table_limit", labels]


def test_what_an_intake_left_out_is_counted() -> None:
    hub = a_hub()
    hub.receive(batch(b"\x80\x04.", "application/x-python-serialize"))
    hub.receive(Batch(malformed=Counter(envelope=1), lost=Counter(buffer_full=2)))
    found = samples(hub.page())

    def counts(name: str) -> dict[str, float]:
        return {dict(labels)["reason"]: value for (family, labels), value in found.items() if family == name}

    malformed = counts("loopwatch_monitor_events_malformed_total")
    assert {reason for reason, count in malformed.items() if count} == {"content_type", "envelope"}
    # Born at 0.
    assert counts("loopwatch_monitor_events_lost_total") == {"buffer_full": 2, "disconnected": 0}
