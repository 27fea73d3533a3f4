"""A set of processes under honcho, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.demo.fleet import Fleet, FleetError

FOREVER = "sleep 600"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    fleets: list[Fleet] = []

    def make(**commands: str) -> Fleet:
        fleets.append(Fleet(tmp_path, commands, os.environ))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


def _eventually(question: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _pid(directory: Path, name: str) -> int:
    path = directory / f"{name}.log"
    _eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_output_goes_to_files_and_closing_ends_all(start: Callable[..., Fleet], tmp_path: Path) -> None:
    fleet = start(one=f"sh -c 'echo $$; exec {FOREVER}'", two=f"sh -c 'echo $$; exec {FOREVER}'")
    pids = [_pid(tmp_path, name) for name in ("one", "two")]
    fleet.check()
    fleet.close()
    assert not any(map(_lives, pids))
    fleet.check()


def test_a_process_that_ends_ends_the_others_and_is_reported(start: Callable[..., Fleet], tmp_path: Path) -> None:
    begun = tmp_path / "stays.log"
    ends = f"sh -c 'until test -s {begun}; do sleep 0.1; done; echo no such database; exit 3'"
    fleet = start(stays=f"sh -c 'echo $$; exec {FOREVER}'", ends=ends)
    pid = _pid(tmp_path, "stays")

    _eventually(lambda: not _lives(pid))
    with pytest.raises(FleetError, match="no such database"):
        _eventually(lambda: fleet.check())


def test_closing_at_once_leaves_nothing(start: Callable[..., Fleet], tmp_path: Path) -> None:
    start(one=f"sh -c 'echo $$; exec {FOREVER}'").close()
    log = tmp_path / "one.log"
    assert not log.exists() or not log.read_text() or not _lives(int(log.read_text()))


def test_nothing_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, time; from app.demo.fleet import Fleet;"
        f"directory = pathlib.Path({str(tmp_path)!r});"
        f"fleet = Fleet(directory, {{'one': \"sh -c 'echo $$; exec {FOREVER}'\"}}, os.environ);"
        "time.sleep(600)"
    )
    demo = subprocess.Popen([sys.executable, "-c", code])
    pid = _pid(tmp_path, "one")
    demo.kill()
    demo.wait()
    _eventually(lambda: not _lives(pid))
