"""``python -m app.demo``: the application, its workers and the monitor at work on this machine, until Ctrl-C.

``DATABASE_URL`` and ``REDIS_URL`` name servers to use instead of embedded ones. With ``DEMO_SECONDS=45`` the demo lasts
that long (beside starting and stopping): half with workers as they should be, half with ``APP_RESOURCES=global``. It
then prints what the monitor saw of both, and exits with 0 only if the second half, and it alone, had loop conflicts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from app.demo.environment import demo_environment
from app.demo.fleet import FleetError
from app.demo.phases import Demo, DemoError
from app.demo.servers import ServerError
from app.demo.summary import make_console

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class UsageError(ValueError):
    """A setting that cannot work; the message is one line."""


def demo_seconds(text: str) -> float | None:
    """``DEMO_SECONDS``; None when it is not set."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 4 <= seconds <= 3600:
        raise UsageError(f"DEMO_SECONDS: {text!r} is not a number of seconds from 4 to 3600, e.g. 45")
    return seconds


def _run(stack: ExitStack, console: Console, seconds: float | None) -> int:
    console.print("Starting PostgreSQL, Redis, the LLM server, the API, three workers and the monitor ...")
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopwatch-logs-")))
    demo = Demo(logs, demo_environment(stack, os.environ), console)
    stack.callback(demo.close)
    return asyncio.run(demo.until_interrupted() if seconds is None else demo.both_settings(seconds))


def main() -> int:
    """The exit code: 0; 1 when the demo did not show what it should; 2 when it could not run."""
    # As Ctrl-C: whatever ends the demo, what it has started ends first.
    for number in ENDING:
        signal.signal(number, signal.default_int_handler)
    console = make_console()
    seconds = None
    try:
        seconds = demo_seconds(os.environ.get("DEMO_SECONDS", ""))
        with ExitStack() as stack:
            try:
                return _run(stack, console, seconds)
            finally:
                # An impatient second Ctrl-C must leave nothing behind.
                for number in ENDING:
                    signal.signal(number, signal.SIG_IGN)
    except (UsageError, ServerError, FleetError, DemoError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130 if seconds else 0


if __name__ == "__main__":
    sys.exit(main())
