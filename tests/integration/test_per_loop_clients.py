"""`PerLoop` of clients that loopwatch does not know, on real servers: nothing leaks, and a fork harms neither side."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from loopwatch import PerLoop
from loopwatch.per_loop import sweep
from tests.integration.clients import Use, fetch, make_pools, make_sessions, query
from tests.integration.http_server import HTTPServer, serve
from tests.postgres import eventually_sessions, plain


@pytest.fixture
def http() -> Iterator[HTTPServer]:
    with serve() as server:
        yield server


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("new", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("bare", [False, True], ids=["ended", "closed"])
def test_however_a_loop_ends_nothing_is_left(
    database_url: str, http: HTTPServer, new: Callable[[], asyncio.AbstractEventLoop], bare: bool
) -> None:
    clients: list[tuple[PerLoop, Use]] = [(make_pools(plain(database_url)), query), (make_sessions(), fetch)]  # type: ignore[type-arg]
    before = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # asyncio and aiohttp tell of what was closed under them
        for _ in range(6):
            loop = new()
            for things, use in clients:
                loop.run_until_complete(use(things, http.url))
            if not bare:
                loop.run_until_complete(loop.shutdown_asyncgens())
            gc.disable()  # the sockets are not to wait for the collector
            try:
                loop.close()
                sweep()
                assert eventually_sessions(database_url, 0) == 0
                assert http.become(0)
            finally:
                gc.enable()
            gc.collect()
            before = before or descriptors()
            assert descriptors() <= before


def test_a_session_of_a_loop_that_lives_is_not_used_by_another(http: HTTPServer) -> None:
    sessions = make_sessions()
    with asyncio.Runner() as owner:
        for _ in range(5):
            assert owner.run(fetch(sessions, http.url)) == asyncio.run(fetch(sessions, http.url))
    assert http.become(0)


ON_A_CHANNEL = """
import asyncio
from tests.integration.grpc_echo import echo, make_channels, serve_grpc

channels = make_channels(serve_grpc())
assert [asyncio.run(echo(channels)) for _ in range(20)] == [b"xx"] * 20
with asyncio.Runner() as owner:
    for _ in range(5):
        assert owner.run(echo(channels)) == asyncio.run(echo(channels)) == b"xx"
assert len(channels) == 0
"""


def test_a_channel_of_grpc_s_is_not_used_by_another_loop() -> None:
    """In a process of its own: grpc starts threads, which a fork of another test would not survive."""
    done = subprocess.run([sys.executable, "-c", ON_A_CHANNEL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("when", ["open", "making", "disposing"])
@pytest.mark.parametrize("flavour", ["asyncio", "uvloop"])
def test_a_fork_at_any_moment_harms_neither_side(database_url: str, http: HTTPServer, flavour: str, when: str) -> None:
    program = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.integration.clients",
            plain(database_url),
            http.url,
            flavour,
            when,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ended\n", program.stderr and program.stderr.read()
        # The parent has ended its clients; the child lives and holds nothing of them.
        assert eventually_sessions(database_url, 0) == 0
        assert http.become(0)
        out, errors = program.communicate(timeout=60)
        assert out == "ok\n", errors
    finally:
        program.kill()
        program.communicate()
