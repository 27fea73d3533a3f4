"""The demo as a user runs it: its table, its exit code, and nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.process_groups import members, sleeps
from tests.acceptance.stack import eventually, free_port

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).resolve().parents[2]
QUEUES = ("logs", "content", "roadmap_workflow")
MARK = "LOOPWATCH_TEST_MARK"


class Demo:
    """A demo that was started.

    Every process that comes from it carries the mark in its environment, or (servers overwrite theirs with a title)
    has its working directory in the demo's directory for temporary files.
    """

    def __init__(self, output: Path, **environment: str) -> None:
        self.mark = uuid4().hex
        self.output = output
        # Not pytest's tmp_path: PostgreSQL runs as another user when we are root.
        self.directory = Path(tempfile.mkdtemp(prefix="loopwatch-test-"))
        self.directory.chmod(0o755)
        given = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}
        # Kept for it: those that it chooses itself may be another's by the time that it has started.
        ports = {name: str(free_port()) for name in ("API_PORT", "LLM_PORT", "MONITOR_PORT")}
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.demo"],
                cwd=ROOT,
                env={**given, **ports, **environment, MARK: self.mark, "TMPDIR": str(self.directory)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        """The ids of all processes that live and come from this demo."""
        return [pid for pid in _pids() if _carries(pid, f"{MARK}={self.mark}") or _is_in(pid, self.directory)]

    def text(self) -> str:
        """What it has written; the last character may be there in part."""
        return self.output.read_text(errors="replace")

    def assert_nothing_left(self) -> None:
        # A process that was killed is still there for a moment.
        eventually(lambda: self.processes() == [], what="its processes have ended")
        assert list(self.directory.iterdir()) == []

    def wait_for(self, text: str, seconds: float) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.text()
            return text in self.text()

        eventually(said, timeout=seconds, what=text)

    def kill(self) -> None:
        """What is left of it, for the sake of the other tests."""
        for pid in self.processes():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _carries(pid: int, variable: str) -> bool:
    try:
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _is_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(directory)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Demo]]:
    demos: list[Demo] = []
    yield demos
    for demo in demos:
        demo.kill()


def _table(output: str) -> dict[tuple[str, str], list[str]]:
    """The cells of the last table by setting and queue."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    return {(setting, queue): cells for setting, queue, *cells in rows}


def test_both_settings_and_the_table(started: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path / "output", DEMO_SECONDS="16", WEB_CONCURRENCY="1")
    started.append(demo)
    code = demo.process.wait(300)
    output = demo.output.read_text()
    assert code == 0, output
    table = _table(output)
    assert list(table) == [(setting, queue) for setting in ("loop_aware", "global") for queue in QUEUES]
    for queue in QUEUES:
        done, failed, engines, used_of_max, conflicts, failed_notifications = table["loop_aware", queue]
        assert int(done) > 0
        assert (failed, conflicts, failed_notifications) == ("0", "0", "0")
        assert int(engines) > 0
        assert re.fullmatch(r"[1-9]\d*/[1-9]\d*", used_of_max)
    assert sum(int(table["global", queue][4]) for queue in QUEUES) > 0
    assert sum(int(table["global", queue][1]) for queue in QUEUES) > 0
    demo.assert_nothing_left()


def test_ctrl_c_ends_everything(started: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path / "output", DEMO_SECONDS="", WEB_CONCURRENCY="1")
    started.append(demo)
    demo.wait_for("conflicts", 200)
    assert len(demo.processes()) > 20
    # What a terminal does: the whole foreground process group gets the signal. Twice, as people do.
    os.killpg(demo.process.pid, signal.SIGINT)
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(120) == 0, demo.output.read_text()
    demo.assert_nothing_left()


def test_a_start_that_is_interrupted_leaves_nothing(started: list[Demo], tmp_path: Path) -> None:
    demo = Demo(tmp_path / "output", DEMO_SECONDS="30", WEB_CONCURRENCY="1")
    started.append(demo)
    demo.wait_for("Starting", 60)
    demo.process.terminate()
    demo.process.wait(120)
    demo.assert_nothing_left()


@pytest.mark.parametrize(
    "program",
    [
        # A command that has started another one, as PostgreSQL's initdb does.
        "from app.demo.processes import run_to_end; run_to_end(['sh', '-c', 'sleep 600 & echo $$ > group; wait'])",
        # A server that is not ready yet.
        (
            "from pathlib import Path; from app.demo.servers import _start; "
            "command = ['sh', '-c', 'echo $$ > group; exec sleep 600']; "
            "_start('It', lambda port: command, ready=lambda port: False, log=Path('log').absolute(), identity={})"
        ),
    ],
)
def test_what_is_being_started_ends_with_who_is_interrupted(tmp_path: Path, program: str) -> None:
    told = tmp_path / "group"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as process:
        group = int(eventually(lambda: told.read_text() if told.exists() else None))
        assert members(group)
        # Python does not own what it starts before Popen has returned; it works until then, and waits from then on.
        eventually(lambda: sleeps(process.pid))
        process.send_signal(signal.SIGINT)
    # By then, and not a little later: what it writes to is removed next.
    assert members(group) == []


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"DEMO_SECONDS": "soon"}, "DEMO_SECONDS"),
        ({"DEMO_SECONDS": "5", "DATABASE_URL": "postgresql+asyncpg://nobody:secret@127.0.0.1:1/x"}, "DATABASE_URL"),
    ],
)
def test_what_cannot_work_is_said(started: list[Demo], tmp_path: Path, environment: dict[str, str], named: str) -> None:
    demo = Demo(tmp_path / "output", **environment)
    started.append(demo)
    assert demo.process.wait(120) == 2
    output = demo.output.read_text()
    assert named in output
    assert "Traceback" not in output
    assert "secret" not in output
    demo.assert_nothing_left()
