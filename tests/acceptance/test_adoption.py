"""Applications in the styles that real ones are written in, before and after adopting loopwatch, on real workers.

Each style is a pair of modules in `tests.acceptance.adoption`. The difference of the two is counted, and held to what
adopting may cost; both run on the pool that the style is seen on, and after adopting tasks that come all at once
succeed, without a conflict and with figures, and leave no session on the server.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from difflib import ndiff
from pathlib import Path

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest
import redis
from celery import Celery
from celery.result import AsyncResult

from app.demo.servers import Server
from loopwatch.telemetry import catalogue
from tests.acceptance.workers import DEADLINE, Listener, worker
from tests.integration.http_server import serve

APPS = Path(__file__).parent / "adoption"
APP = "tests.acceptance.adoption.celery_app"
TASKS = 12

LINES = {
    "surfsense": 8,
    "bisheng": 5,
    "onyx": 4,
    "leap": 10,
    "agentic": 2 + 4 + 4,  # engine, Redis, LLM
    "fba": 1 + 2 + 4,  # engine, subclass of Redis, asynchronous hooks
    "pingcrm": 3,
    "chithi": 2,
    "wegent": 9,
    "vstorm": 6,
    "momentum": 1,
    "flowsint": 2,
    "osparc": 2,  # observe() and its import, and nothing of its own changes
}
"""How many lines of the application may be new or others than before; what is deleted is not counted."""

POOLS = {
    "prefork": ["surfsense", "leap", "agentic", "pingcrm", "vstorm", "momentum", "flowsint", "osparc"],
    "threads": ["bisheng", "onyx", "leap", "flowsint", "osparc"],
    "solo": ["wegent"],
    "gevent": ["fba"],
    "celery-aio-pool": ["chithi"],
}
MYSQL = {"bisheng", "wegent"}


def _lines(path: Path) -> list[str]:
    """The lines of code, without the docstring, blank lines and indentation."""
    body = ast.parse(path.read_text()).body
    assert body[0].end_lineno is not None
    return [line.strip() for line in path.read_text().splitlines()[body[0].end_lineno :] if line.strip()]


def _difference(style: str) -> list[str]:
    return list(ndiff(_lines(APPS / f"{style}_before.py"), _lines(APPS / f"{style}_after.py")))


@pytest.mark.parametrize("style", LINES)
def test_adopting_costs_no_more_lines_than_it_may(style: str) -> None:
    new = [line for line in _difference(style) if line.startswith("+")]
    assert 0 < len(new) <= LINES[style], "\n".join(new)


def test_what_is_right_already_is_only_observed() -> None:
    changed = [line for line in _difference("osparc") if line[0] in "+-"]
    assert changed == ["+ import loopwatch", "+ loopwatch.observe(server.engine)"]


def test_every_style_is_run() -> None:
    assert {style for styles in POOLS.values() for style in styles} == set(LINES)
    assert {path.stem.rpartition("_")[0] for path in APPS.glob("*_*.py")} - {"celery"} == set(LINES)
