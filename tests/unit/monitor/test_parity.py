"""Drop-in parity with celery-exporter 0.12.2: its metrics, its flags, and what it gets wrong.

The faults that need a broker or a socket have their tests elsewhere: `tests/integration/test_monitor_parity.py` (queue
lengths by priority, no broadcast in a scrape, workers without events, promtool), `test_monitor_outage.py` (outages),
`test_monitor_web.py` (authentication); memory: `test_monitor_churn.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loopwatch.telemetry import catalogue
from loopwatch_monitor.command import _command
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake import events
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.queues import Depth
from tests.unit.monitor.monitored import Monitored, batch

TASK = ("name", "hostname", "queue_name")
METRICS = {
    "celery_task_sent_total": ("counter", TASK),
    "celery_task_received_total": ("counter", TASK),
    "celery_task_started_total": ("counter", TASK),
    "celery_task_succeeded_total": ("counter", TASK),
    "celery_task_rejected_total": ("counter", TASK),
    "celery_task_revoked_total": ("counter", TASK),
    "celery_task_retried_total": ("counter", TASK),
    "celery_task_failed_total": ("counter", (*TASK, "exception")),
    "celery_task_runtime": ("histogram", TASK),
    "celery_task_queue_wait_time": ("histogram", TASK),
    "celery_worker_up": ("gauge", ("hostname",)),
    "celery_worker_tasks_active": ("gauge", ("hostname",)),
    "celery_queue_length": ("gauge", ("queue_name",)),
    "celery_active_consumer_count": ("gauge", ("queue_name",)),
    "celery_active_worker_count": ("gauge", ("queue_name",)),
    "celery_active_process_count": ("gauge", ("queue_name",)),
}
BUCKETS = {
    "celery_task_runtime": (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    "celery_task_queue_wait_time": (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
}
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
FLAGS: dict[str, object] = {
    "--broker-url": "",
    "--broker-transport-option": None,
    "--broker-ssl-option": None,
    "--accept-content": "json",
    "--retry-interval": 0.0,
    "--host": "0.0.0.0",
    "--port": 9808,
    "--log-level": "INFO",
    "--buckets": "0.005,0.01,0.025,0.05,0.075,0.1,0.25,0.5,0.75,1,2.5,5,7.5,10",
    "--queue-wait-buckets": "0.05,0.1,0.25,0.5,1,2.5,5,10,30,60,120,300,600,1800",
    "--worker-timeout": 300.0,
    "--purge-offline-worker-metrics": 600.0,
    "--generic-hostname-task-sent-metric": False,
    "--generic-hostname-worker-task-metric": False,
    "--queues": "",
    "--metric-prefix": "celery_",
    "--default-queue-name": "celery",
    "--static-label": None,
}


def a_page(**settings: object) -> str:
    hub = Hub(Settings(broker_url="memory://", **settings), status=BrokerStatus(up=True), version="1")  # type: ignore[arg-type]
    task = {"hostname": "w@h", "timestamp": 1.0}
    events = [
        {"type": "worker-heartbeat", "active": 1, **task},
        *({"type": "task-sent", "uuid": uuid, "name": "t", "queue": "q", **task} for uuid in "12345"),
        {"type": "task-received", "uuid": "1", "name": "t", **task},
        {"type": "task-started", "uuid": "1", **task},
        {"type": "task-succeeded", "uuid": "1", "runtime": 0.1, **task},
        {"type": "task-failed", "uuid": "2", "exception": "E()", **task},
        {"type": "task-retried", "uuid": "3", "exception": "E()", **task},
        {"type": "task-revoked", "uuid": "4", **task},
        {"type": "task-rejected", "uuid": "5", **task},
    ]
    hub.receive(batch(json.dumps(events).encode()))
    hub.measured({"q": Depth(1, 1)})
    return hub.page().decode()


def shown(page: str, prefix: str = "celery_") -> dict[str, tuple[str, set[str]]]:
    """The samples' names on a page, with their type and label names."""
    return {
        sample.name: (family.type, set(sample.labels))
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def expected(prefix: str = "celery_") -> Iterator[tuple[str, tuple[str, set[str]]]]:
    for name, (kind, labels) in METRICS.items():
        for suffix in SUFFIXES[kind]:
            own = prefix + name.removeprefix("celery_") + suffix
            yield own, (kind, {*labels, "le"} if suffix == "_bucket" else {*labels})


def test_names_types_and_labels_are_exactly_its_own() -> None:
    assert shown(a_page()) == dict(expected())


def test_the_prefix_is_changed_in_all_of_them() -> None:
    page = a_page(metric_prefix="shop_")
    assert shown(page, "shop_") == dict(expected("shop_"))
    assert not shown(page)


def test_the_catalogue_says_the_same_and_lists_every_name_that_can_be_exposed() -> None:
    celery = {metric.name: (metric.kind, metric.labels) for metric in catalogue.METRICS if metric.origin == "celery"}
    assert celery == METRICS
    assert {metric.name: metric.buckets for metric in catalogue.METRICS if metric.name in BUCKETS} == BUCKETS
    names = [*catalogue.exposed_names()]
    assert len(names) == len(set(names))
    assert {name for name, _ in expected()} == {name for name in names if name.startswith("celery_")}
    assert shown(a_page(), "loopwatch_").keys() <= set(names)


def test_every_flag_has_its_default_and_its_two_variables() -> None:
    options = {option.opts[0]: option for option in _command.params if isinstance(option, click.Option)}
    for flag, default in FLAGS.items():
        option = options[flag]
        variable = flag.removeprefix("--").replace("-", "_").upper()
        assert option.envvar == [f"LOOPWATCH_{variable}", f"CE_{variable}"], flag
        assert option.multiple == (default is None), flag
        if default is False:
            assert option.is_flag, flag
        elif default is not None:
            assert option.default == default, flag
    assert "-Q" in options["--queues"].opts


# ------------------------------------------------------------------------- what it gets wrong and we get right


def test_started_late_no_name_and_no_queue_is_guessed() -> None:
    monitored = Monitored(default_queue="celery")
    monitored.started()
    monitored.after(5)
    assert set(monitored.series(catalogue.TASK_STARTED)) == {
        'name="unknown",hostname="w@h",queue_name="unknown"'
    }  # not "None", not "celery"


def test_two_workers_on_one_host_are_two_and_one_goes_alone() -> None:
    monitored = Monitored()
    monitored.heartbeat("a@h", active=1)
    monitored.heartbeat("b@h", active=2)
    monitored.fold(events.WorkerOffline(hostname="a@h", timestamp=0.0))
    assert monitored.series(catalogue.WORKER_UP) == {'hostname="a@h"': 0, 'hostname="b@h"': 1}
    assert monitored.series(catalogue.WORKER_TASKS_ACTIVE) == {'hostname="a@h"': 0, 'hostname="b@h"': 2}


@pytest.mark.parametrize("skew", [-25_200.0, 25_200.0])
def test_a_clock_or_zone_that_is_wrong_makes_no_live_worker_unseen(skew: float) -> None:
    monitored = Monitored(worker_timeout=300, purge=600)
    for _ in range(10):
        monitored.fold(events.WorkerHeartbeat(hostname="w@h", timestamp=1e6 + monitored.now + skew))
        monitored.after(100)
    assert monitored.series(catalogue.WORKER_UP) == {'hostname="w@h"': 1}


def test_a_killed_worker_is_down_after_the_timeout_and_gone_after_the_purge() -> None:
    monitored = Monitored(worker_timeout=300, purge=600)
    monitored.heartbeat()
    seen = []
    for _ in range(7):
        seen.append([*monitored.series(catalogue.WORKER_UP).values()])
        monitored.after(100)
    assert seen == [[1], [1], [1], [0], [0], [0], []]


def test_names_of_pods_do_not_pile_up() -> None:
    monitored = Monitored(purge=600)
    monitored.fleet.series.limit = 100
    for day in range(50):
        for pod in range(10):
            hostname = f"pod-{day}-{pod}@h"
            monitored.heartbeat(hostname)
            monitored.started(f"{day}-{pod}", hostname=hostname)
        monitored.after(60)
        assert len(monitored.series(catalogue.WORKER_UP)) <= 100
    assert len(monitored.fleet.series) <= 100
    assert monitored.dropped == {}


def test_a_cap_holds_and_counts_what_it_dropped() -> None:
    monitored = Monitored(purge=0)
    monitored.fleet.series.limit = 3
    for number in range(5):
        monitored.sent(str(number), name=f"t{number}")
    assert len(monitored.series(catalogue.TASK_SENT)) == 3
    assert monitored.dropped == {"celery_task_sent_total": 2}


@pytest.mark.parametrize(
    ("exception", "name"),
    [("None", "unknown"), ("", "unknown"), ("pkg.Err('x')", "Err"), ("<Err: x>", "Err"), ("Err()", "Err")],
)
def test_exceptions_of_every_form_are_named_or_unknown(exception: str, name: str) -> None:
    monitored = Monitored()
    monitored.sent()
    monitored.failed(exception=exception)
    (text,) = monitored.series(catalogue.TASK_FAILED)
    assert text.endswith(f'exception="{name}"')


def test_the_count_of_workers_falls_to_nothing_and_stays() -> None:
    monitored = Monitored(purge=600)
    monitored.answer("q", processes=4)
    assert monitored.series(catalogue.ACTIVE_PROCESSES) == {'queue_name="q"': 4}
    monitored.after(600)
    assert monitored.series(catalogue.ACTIVE_WORKERS) == {'queue_name="q"': 0}
    assert monitored.series(catalogue.ACTIVE_PROCESSES) == {'queue_name="q"': 0}
