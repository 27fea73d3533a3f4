"""Children of a pool that are ended while they are busy on a real PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TRIALS = 25


@pytest.mark.parametrize("flavour", ["asyncio", "uvloop"])
def test_a_busy_child_always_exits_as_it_is_told(database_url: str, flavour: str) -> None:
    """Raised inside asyncpg's compiled callbacks, the exit crashed, hung or missed a fourth of them."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.integration.terminating", database_url, flavour, str(TRIALS)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"exited": TRIALS}, result.stderr
