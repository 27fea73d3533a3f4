"""What the installed libraries really raise in each measured failure is classified, with the resource."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conflict_reproductions import REPRODUCTIONS
from tests.integration.http_server import HTTPServer, serve

EXPECTED: dict[str, tuple[str, str]] = {
    "sqlalchemy_engine": ("cross_loop", "sqlalchemy"),
    "sqlalchemy_engine_with_pre_ping": ("cross_loop", "sqlalchemy"),
    "sqlalchemy_pool_exhausted": ("cross_loop", "sqlalchemy"),
    "sqlalchemy_engine_of_a_loop_that_lives": ("cross_loop", "sqlalchemy"),
    "sqlalchemy_connection_of_another_loop": ("cross_loop", "sqlalchemy"),
    "sqlalchemy_transaction_of_somebody_else": ("fork_shared", "sqlalchemy"),
    "asyncpg_connection": ("cross_loop", "asyncpg"),
    "asyncpg_pool": ("cross_loop", "asyncpg"),
    "asyncpg_pool_of_a_loop_that_lives": ("cross_loop", "asyncpg"),
    "asyncpg_connection_forked": ("cross_loop", "asyncpg"),
    "asyncpg_statement_of_somebody_else": ("fork_shared", "asyncpg"),
    "asyncpg_transaction_of_somebody_else": ("fork_shared", "asyncpg"),
    "redis_client": ("closed_loop", "redis"),
    "redis_client_on_uvloop": ("closed_loop", "redis"),
    "redis_client_of_a_loop_that_lives": ("cross_loop", "redis"),
    "redis_pubsub": ("cross_loop", "redis"),
    "httpx_client": ("closed_loop", "httpx"),
    "httpx2_client": ("closed_loop", "httpx"),
    "httpx_limit_reached": ("cross_loop", "httpx"),
    "chat_openai": ("closed_loop", "httpx"),
    "aiohttp_session": ("closed_loop", "aiohttp"),
    "grpc_channel": ("closed_loop", "grpc"),
    "grpc_channel_of_a_loop_that_lives": ("cross_loop", "grpc"),
    "asyncio_event": ("cross_loop", "asyncio"),
    "asyncio_queue": ("cross_loop", "asyncio"),
    "asyncio_lock": ("cross_loop", "asyncio"),
    "asyncio_gather_of_foreign_futures": ("cross_loop", "asyncio"),
    "asyncio_future": ("cross_loop", "unknown"),
    "asyncio_wrap_future_of_another_loop": ("cross_loop", "asyncio"),
    "asyncio_call_from_another_thread": ("cross_loop", "asyncio"),
    "uvloop_transport": ("closed_loop", "asyncio"),
}
"""Kind and resource of each; `asyncio_future` passes through nobody's code but the application's own."""

NO_CONFLICT = {
    "sqlalchemy_null_pool": "",
    "sqlalchemy_pool_exhausted_without_a_waiter": "QueuePool limit",
    "redis_pubsub_in_the_middle_of_a_read": "called while another coroutine",
    "httpx_limit_reached_without_a_waiter": "PoolTimeout",
    "aiohttp_session_of_a_loop_that_lives": "Timeout context manager should be used inside a task",
    "asyncio_lock_that_nobody_waited_for": "TimeoutError",
    "asyncio_wait_for_a_foreign_future": "TimeoutError",
}
"""What comes of a foreign resource, too, but says nothing of loops: a part of the error; empty: it works."""

TOLD_BY_THE_CHAIN_ONLY = {"asyncpg_pool", "asyncpg_pool_of_a_loop_that_lives"}
"""The outermost exception is its aftermath, so that its text alone, in an event, says nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[HTTPServer]:
    with serve() as running:
        yield running


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_what_is_raised_is_classified(name: str, request: pytest.FixtureRequest, server: HTTPServer) -> None:
    url = server.url
    if name.startswith(("sqlalchemy", "asyncpg")):
        url = request.getfixturevalue("database_url")
    elif name.startswith("redis"):
        url = request.getfixturevalue("redis_url")
    raised = _reproduce(name, url)
    if name in NO_CONFLICT:
        assert NO_CONFLICT[name] in raised["error"]
        assert bool(NO_CONFLICT[name]) == bool(raised["error"])
        assert [raised[seen] for seen in ("exception", "traceback", "repr")] == [None] * 3
        return
    assert (*(raised["exception"] or ()),) == EXPECTED[name], raised["error"]
    assert raised["traceback"] == raised["exception"], raised["error"]
    alone = None if name in TOLD_BY_THE_CHAIN_ONLY else EXPECTED[name][0]
    assert (raised["repr"] or [None])[0] == alone, raised["error"]


def _reproduce(name: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.conflict_reproductions", name, url]
    process = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    lines = process.stdout.strip().splitlines()
    assert lines, process.stderr
    result: dict[str, Any] = json.loads(lines[-1])
    return result
