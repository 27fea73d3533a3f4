"""A set of processes that start and end together, run by honcho in a process of its own.

In its own process because honcho's manager wants the main thread, and because a set is stopped while others go on.
``python -m app.demo.fleet DIRECTORY NAME=COMMAND ...`` runs the set until the first of its processes ends, or until its
standard input does: that is how `Fleet` stops it, and what happens when the demo itself is killed. What the processes
write goes to ``DIRECTORY/NAME.log``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from honcho.manager import Manager
from honcho.printer import Message

__all__ = ["Fleet", "FleetError"]

STOP_TIMEOUT = 20.0
"""Seconds that a fleet has for its end; honcho kills what is left of it some seconds after its first process ended."""


class FleetError(RuntimeError):
    """One of the processes ended by itself; the message holds the end of its log."""


class Fleet:
    """A running set of processes.

    Args:
        directory: where their logs go.
        commands: shell commands by process name.
        environment: theirs.
    """

    def __init__(self, directory: Path, commands: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._names = list(commands)
        self._closed = False
        # A session of its own: Ctrl-C in the terminal is for the demo, which stops the fleets in order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(directory), *(f"{name}={line}" for name, line in commands.items())],
            env=dict(environment),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def check(self) -> None:
        """Raises `FleetError` when a process has ended by itself."""
        if self._closed or self._process.poll() is None:
            return
        lines = [line for name in self._names for line in self._log(name).splitlines()[-5:]]
        raise FleetError("\n".join([f"{', '.join(self._names)}: a process has ended. The last lines:", *lines]))

    def close(self) -> None:
        """Stops the processes and waits for their end. May be called twice."""
        assert self._process.stdin is not None
        self._closed = True
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _log(self, name: str) -> str:
        path = self._directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


class _LogFiles:
    """A printer for honcho: each process's lines into a file of its own."""

    def __init__(self, directory: Path) -> None:
        self.width = 0  # honcho sets it
        self._directory = directory

    def write(self, message: Message) -> None:
        data = message.data if isinstance(message.data, bytes) else message.data.encode()
        with (self._directory / f"{message.name}.log").open("ab") as file:
            file.write(data)


def _stop_at_end_of_input(manager: Manager) -> None:
    while os.read(0, 1024):
        pass
    # honcho cannot stop what has not reported its pid yet.
    while not all("pid" in process for process in manager._processes.values()):
        time.sleep(0.05)
    manager.terminate()


def main(directory: str, *commands: str) -> None:
    """Runs the processes to their end."""
    manager = Manager(_LogFiles(Path(directory)))
    for name, _, line in (command.partition("=") for command in commands):
        # exec: honcho starts a shell, which would stand between it and the process.
        manager.add_process(name, f"exec {line}")
    threading.Thread(target=_stop_at_end_of_input, args=[manager], daemon=True).start()
    manager.loop()


if __name__ == "__main__":
    main(*sys.argv[1:])
