"""`run_async` under gevent and eventlet: each scenario of ``greenlets.py``, in one patched process for each of them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("greenlets.py")
DEADLINE = 120.0
"""Seconds; a scenario that hangs is how most of them fail."""


def _scenarios() -> list[str]:
    """Read, not imported: it would patch this process."""
    for node in ast.parse(SCRIPT.read_text()).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "SCENARIOS":
            assert isinstance(node.value, ast.List)
            return [ast.unparse(element) for element in node.value.elts]
    raise AssertionError("no SCENARIOS")


@pytest.mark.parametrize("green", ["gevent", "eventlet"])
def test_run_async_under(green: str) -> None:
    process = subprocess.run(
        [sys.executable, str(SCRIPT), green], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert process.stdout.split() == _scenarios(), process.stderr
    assert process.returncode == 0, process.stderr


def test_eventlets_asyncio_hub_is_refused() -> None:
    code = (
        "import eventlet; eventlet.monkey_patch(); import loopwatch\n"
        "def call():\n"
        "    for shared in (False, True):\n"
        "        try: loopwatch.run_async(lambda: None, shared=shared)\n"
        "        except loopwatch.LoopwatchError as error: print(type(error).__name__)\n"
        "eventlet.spawn(call).wait()"
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "EVENTLET_HUB": "asyncio"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert process.stdout.split() == ["RunningLoopError", "ConfigurationError"], process.stderr
