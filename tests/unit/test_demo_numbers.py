"""The demo's numbers: from a page of the monitor to the rows of the table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from app.demo.__main__ import UsageError, demo_seconds
from app.demo.metrics import Page, QueueNumbers, numbers_by_queue
from app.demo.summary import comparison, live

PAGE = """
# TYPE loopwatch_worker_queue gauge
loopwatch_worker_queue{hostname="content@h",queue_name="content"} 1
loopwatch_worker_queue{hostname="content@global.h",queue_name="content"} 1
loopwatch_worker_queue{hostname="logs@h",queue_name="logs"} 1
# TYPE loopwatch_pool_info gauge
loopwatch_pool_info{hostname="content@h",pool="app",resource="sqlalchemy",database="h/app"} 1
loopwatch_pool_info{hostname="content@h",pool="events",resource="redis",database="h/0"} 1
# TYPE celery_task_succeeded_total counter
celery_task_succeeded_total{name="a",hostname="content@h",queue_name="content"} 3.0
celery_task_succeeded_total{name="b",hostname="content@h",queue_name="content"} 4.0
celery_task_succeeded_total{name="a",hostname="content@global.h",queue_name="content"} 100.0
celery_task_succeeded_total{name="c",hostname="logs@h",queue_name="logs"} 50.0
# TYPE celery_task_failed_total counter
celery_task_failed_total{name="a",hostname="content@h",queue_name="content",exception="ValueError"} 2.0
# TYPE loopwatch_engines gauge
loopwatch_engines{hostname="content@h",slot="0",pool="app"} 1
loopwatch_engines{hostname="content@h",slot="1",pool="app"} 2
loopwatch_engines{hostname="content@h",slot="0",pool="events"} 9
# TYPE loopwatch_pool_connections_peak gauge
loopwatch_pool_connections_peak{hostname="content@h",slot="0",pool="app"} 4
# TYPE loopwatch_pool_connections_max gauge
loopwatch_pool_connections_max{hostname="content@h",slot="0",pool="app"} 10
loopwatch_pool_connections_max{hostname="content@h",slot="1",pool="app"} 10
# TYPE loopwatch_loop_conflicts_total counter
loopwatch_loop_conflicts_total{hostname="content@h",queue_name="content",name="a",kind="cross_loop"} 5
# TYPE loopwatch_notification_failures_total counter
loopwatch_notification_failures_total{hostname="content@h",queue_name="content",operation="notify",reason="timeout"} 6
"""
CONTENT = QueueNumbers("content", 7, 2, 3, 4, 20, 5, 6)


def test_rows_are_the_chosen_nodes_and_the_databases_pools() -> None:
    rows = numbers_by_queue(Page(PAGE), ["content", "logs"], of_node=lambda node: "@global." not in node)
    assert rows == [CONTENT, QueueNumbers("logs", 50, 0, 0, 0, 0, 0, 0)]


def test_a_page_without_them_is_zeros() -> None:
    assert numbers_by_queue(Page(""), ["content"], of_node=bool) == [QueueNumbers("content", 0, 0, 0, 0, 0, 0, 0)]


def test_plain_lines_where_there_is_no_terminal() -> None:
    output = io.StringIO()
    with live(Console(file=output, width=200)) as show:
        show("loop_aware", [CONTENT])
    assert output.getvalue() == (
        "loop_aware: content: 7 done, 2 failed, 3 engines, 4/20 connections, 5 conflicts, 6 failed notifications\n"
    )


def test_a_table_that_is_drawn_anew_on_a_terminal() -> None:
    output = io.StringIO()
    with live(Console(file=output, width=120, force_terminal=True)) as show:
        show("loop_aware", [CONTENT])
        show("loop_aware", [CONTENT])
    assert output.getvalue().count("4/20") >= 2
    assert "\x1b[" in output.getvalue()


def test_the_comparison_has_a_row_a_queue_and_setting() -> None:
    output = io.StringIO()
    Console(file=output, width=120).print(comparison({"loop_aware": [CONTENT], "global": [CONTENT]}))
    assert [line.split("│")[1].strip() for line in output.getvalue().splitlines() if line.startswith("│")] == [
        "loop_aware",
        "global",
    ]


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("45", 45.0), ("4.5", 4.5)])
def test_demo_seconds(text: str, seconds: float | None) -> None:
    assert demo_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "0", "-5", "1e9", "nan", "inf"])
def test_demo_seconds_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="DEMO_SECONDS"):
        demo_seconds(text)
