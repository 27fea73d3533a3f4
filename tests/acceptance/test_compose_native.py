"""The native runner of docker-compose.yml leaves nothing behind; that what it starts works is test_operations.py's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.compose_file import ComposeError
from tests.acceptance.operations import operations
from tests.acceptance.process_groups import members, within
from tests.acceptance.stack import ROOT, eventually

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go."""
    # Not pytest's tmp_path: PostgreSQL runs as another user when we are root.
    directory = Path(tempfile.mkdtemp(prefix="loopwatch-test-"))
    directory.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    for pid in within(directory):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory)


def test_a_start_that_fails_says_why_and_leaves_nothing(directory: Path) -> None:
    with (
        pytest.raises(ComposeError, match="set it to loop_aware or global"),
        operations(environment={"APP_RESOURCES": "best"}),
    ):
        pytest.fail("it cannot be healthy")
    # A process that was killed is still there for a moment.
    eventually(lambda: within(directory) == [], what="its processes have ended")
    assert list(directory.iterdir()) == []


STARTS = """
import subprocess, time
from tests.acceptance.process_groups import Warden
with Warden() as warden:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    warden.add(process.pid)
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_nothing_outlives_a_test_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], cwd=ROOT, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        started = int(tests.stdout.readline())
        assert members(started) == [started]
        tests.kill()
    eventually(lambda: members(started) == [], what="it has ended, too")
