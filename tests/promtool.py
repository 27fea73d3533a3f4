"""Prometheus' own tool, which checks rules and runs their tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest

MEMORY = "/dev/shm"
Promtool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Runs promtool with these arguments, whatever comes of it."""
    program = shutil.which("promtool")
    if program is None:
        missing = "promtool is missing: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)

    # Each test of a rule writes a database and throws it away: in memory, where there is room for files in it.
    environment = os.environ | ({"TMPDIR": MEMORY} if os.access(MEMORY, os.W_OK) else {})

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [program, *(str(argument) for argument in arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run
