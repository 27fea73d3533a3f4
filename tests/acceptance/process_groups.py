"""Process groups: what belongs to them, and a warden that ends them with the test that started them.

``python -m tests.acceptance.process_groups`` is the warden: it reads ``+ID`` and ``-ID``, a line each, and when its
input ends it ends the groups that are left. So nothing survives a test process that is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

__all__ = ["Warden", "answer", "descendants", "members", "memory", "sleeps", "within"]

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""


class Warden:
    """A process that ends what it is told of, when we are no more, or at the end of a ``with``."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C in the terminal is for the tests.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def add(self, group: int) -> None:
        """To be ended with us."""
        self._tell(f"+{group}")

    def drop(self, group: int) -> None:
        """It has ended."""
        self._tell(f"-{group}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=4 * GRACE)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # At once and whole, whichever thread says it.
        os.write(self._process.stdin.fileno(), line.encode() + b"\n")


def answer(command: list[str], *, cwd: Path, environment: Mapping[str, str], timeout: float) -> str:
    """What is wrong, says a command that asks; an empty text if its code is 0. Its processes end with the timeout."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _signal([process.pid], signal.SIGKILL)
            return f"no answer within {timeout:g} s"
    said = output.decode(errors="replace").strip()
    return f"code {process.returncode}: {said}" if process.returncode else ""


def members(group: int) -> list[int]:
    """The processes of a group, zombies aside."""
    return [pid for pid, (state, _, other) in _processes().items() if other == group and state != "Z"]


def sleeps(pid: int) -> bool:
    """Whether a process waits for something."""
    state, _, _ = _processes().get(pid, ("", 0, 0))
    return state == "S"


def descendants(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    processes = _processes()
    found = [pid]
    for parent in found:
        found += [child for child, (_, of, _) in processes.items() if of == parent]
    return found


def within(directory: Path) -> list[int]:
    """The processes whose working directory is in this one, or whose environment names it."""
    found = []
    for pid, (state, _, _) in _processes().items():
        with suppress(OSError):  # it has ended meanwhile
            place = Path(f"/proc/{pid}")
            named = str(directory).encode() in (place / "environ").read_bytes()
            if state != "Z" and (named or (place / "cwd").readlink().is_relative_to(directory)):
                found.append(pid)
    return found


def memory(pids: Iterable[int]) -> int:
    """Bytes of memory that they hold; what several share counts once (Linux' Pss)."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # it has ended meanwhile
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def _processes() -> dict[int, tuple[str, int, int]]:
    """State, parent and group by process."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                state, parent, group, *_ = (path / "stat").read_text().rpartition(")")[2].split()
                found[int(path.name)] = (state, int(parent), int(group))
    return found


def _signal(groups: Iterable[int], number: signal.Signals) -> None:
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def main() -> None:
    """Watches until its input ends, then ends what it holds."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while any(map(members, groups)) and time.monotonic() < deadline:
        time.sleep(0.1)
    _signal(groups, signal.SIGKILL)


if __name__ == "__main__":
    main()
