"""An engine that was opened in the parent and then forked harms neither side."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from tests.postgres import eventually_sessions

USES = ["use it", "dispose", "dispose(close=False)"]


# uvloop hangs when a forked child closes an inherited loop, whether or not anything is connected on it.
@pytest.mark.parametrize(
    ("flavour", "what"),
    [
        *itertools.product(["asyncio", "uvloop"], USES),
        *(("asyncio", what) for what in ("close the loop", "use what is held", "use what is held, disposed of")),
    ],
)
def test_a_fork_with_open_connections_harms_neither_side(database_url: str, flavour: str, what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.integration.forking", database_url, flavour, what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "ok\n", done.stderr
    assert eventually_sessions(database_url, 0) == 0
