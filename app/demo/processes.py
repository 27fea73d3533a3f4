"""Processes that leave nothing behind: a server's end, and a command that ends with everything that it began.

`subprocess.run` kills the command alone when it is interrupted. What that had started (PostgreSQL's initdb runs the
server itself) then goes on writing for a while, into a directory that is being removed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import Any

__all__ = ["end", "run_to_end"]

END_TIMEOUT = 10.0
"""Seconds that a process has to end by itself, and killed ones have to be gone."""


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Ends a process by a signal, else kills it; waits for its end. It may have ended already."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_to_end(command: list[str], **options: Any) -> tuple[int, str]:
    """The exit code of a command, and what it wrote to standard error. ``options`` are `subprocess.Popen`'s.

    >>> run_to_end(["sh", "-c", "echo no >&2; exit 3"])
    (3, 'no\\n')
    """
    # A group of its own, which can be killed whole.
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    ) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _wait_for_the_end_of(process.pid)
            raise
    return process.returncode, errors


def _wait_for_the_end_of(group: int) -> None:
    deadline = time.monotonic() + END_TIMEOUT
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.01)
