"""A process that reports itself, and a broker that goes away: real Redis, stopped, continued and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

import loopwatch
from app.demo.servers import Server
from loopwatch.errors import ConfigurationError
from loopwatch.telemetry import catalogue, reporter
from loopwatch.telemetry.stats import STATS
from tests.acceptance.workers import DEADLINE, Listener, wait_until

# Python 3.12 warns of what is tested here.
forks_with_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
HOST = socket.gethostname()


@pytest.fixture
def broker(own_redis: Server) -> Server:
    return own_redis


def _dropped() -> float:
    return STATS.value(catalogue.TELEMETRY_DROPPED, ("broker",))


def test_processes_of_one_name_have_slots_of_their_own(redis_url: str) -> None:
    # The slots of a name are the machine's: another test or demo may report itself as an API, too.
    name = f"api-{os.getpid()}"
    node = f"{name}@{HOST}"
    code = (
        "import sys, celery, loopwatch\n"
        f"with loopwatch.report(celery.Celery(broker={redis_url!r}), name={name!r}, interval=0.1): sys.stdin.read()"
    )
    with Listener(redis_url) as listener:
        seen: set[str] = set()

        def slots() -> set[str]:
            seen.update(listener.snapshots.get(node, {}).get("gauges", {}))
            return seen

        with loopwatch.report(listener.app, name=name, interval=0.1, release="7"):
            wait_until(lambda: slots() == {"0"}, slots)
            info, boot = listener.snapshots[node]["info"], listener.snapshots[node]["boot"]
            assert info["kind"] == "process"
            assert info["release"] == "7"
            other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
            wait_until(lambda: slots() == {"0", "1"}, slots)
            other.communicate(b"", timeout=60)
            assert other.returncode == 0
        # Ours, not the other one's that came before it: nothing is under way any more.
        wait_until(lambda: listener.snapshots[node]["stopping"] and listener.snapshots[node]["boot"] == boot)
        # The kernel has freed both.
        seen.clear()
        listener.snapshots.clear()
        with loopwatch.report(listener.app, name=name, interval=0.1):
            wait_until(lambda: slots() == {"0"}, slots)


@pytest.mark.parametrize("name", ["", "api@host"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="without the host"), loopwatch.report(None, name=name):
        pass


def test_a_process_reports_itself_once(redis_url: str) -> None:
    one, other = Celery(broker=redis_url, set_as_current=False), Celery(broker=redis_url, set_as_current=False)
    with loopwatch.report(one, name="api"):
        for app, name in ((other, "script"), (one, "api")):
            with (
                pytest.raises(ConfigurationError, match=f"{name}@.*as 'api@.*count twice"),
                loopwatch.report(app, name=name),
            ):
                pass
    with loopwatch.report(other, name="script"):
        pass


def test_a_broker_that_hangs_is_survived(broker: Server) -> None:
    node = f"script@{HOST}"
    with Listener(broker.url) as listener, loopwatch.report(listener.app, name="script", interval=0.1):
        wait_until(lambda: node in listener.snapshots)
        before, newest = _dropped(), listener.snapshots[node]["seq"]
        os.kill(broker.pid, signal.SIGSTOP)
        wait_until(lambda: _dropped() >= before + 2)
        os.kill(broker.pid, signal.SIGCONT)
        # The drop itself is told, and what was lost shows as a gap.
        wait_until(lambda: listener.sum(node, catalogue.TELEMETRY_DROPPED, "broker") >= before + 2)
        assert listener.snapshots[node]["seq"] > newest + 2


def test_a_process_ends_although_its_broker_hangs(broker: Server, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("app", broker=broker.url)
    ended = threading.Event()

    def run() -> None:
        with loopwatch.report(app, name="script", interval=0.1):
            before = _dropped()
            os.kill(broker.pid, signal.SIGSTOP)
            wait_until(lambda: _dropped() > before)
        wait_until(lambda: "cannot publish" in caplog.text)  # it is counted before it is logged
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(3 * DEADLINE)
    os.kill(broker.pid, signal.SIGCONT)
    assert "cannot publish" in caplog.text
    assert broker.url not in caplog.text
    assert broker.url.partition("@")[0].rpartition(":")[2] not in caplog.text


def test_the_package_that_a_broker_needs_and_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pymongo", None)
    monkeypatch.delitem(sys.modules, "kombu.transport.mongodb", raising=False)
    with loopwatch.report(Celery("app", broker="mongodb://me:secret@localhost"), name="script", interval=0.1):
        wait_until(lambda: "cannot publish" in caplog.text)
    assert "pymongo" in caplog.text
    assert "secret" not in caplog.text


def test_a_broker_that_is_down_costs_no_memory(broker: Server) -> None:
    app = Celery("app", broker=broker.url)
    broker.close()
    before, threads = _dropped(), threading.active_count()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with loopwatch.report(app, name="script", interval=0.1):
        wait_until(lambda: _dropped() >= before + 15)
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 5
    wait_until(lambda: threading.active_count() <= threads)


@forks_with_threads
def test_a_fork_waits_until_the_brokers_client_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of the client's, held by our thread at the fork, would stay locked in the child for ever."""
    monkeypatch.setattr(reporter, "FORK_WAIT", 60.0)
    inside, leave = threading.Event(), threading.Event()

    def publish() -> None:
        with reporter._publishing:
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=publish)
    thread.start()
    assert inside.wait(60)
    threading.Timer(0.01, leave.set).start()
    # What the child remembers of the moment of the fork.
    assert _in_child(lambda: leave.is_set() and reporter._publishing._lock.acquire(timeout=60))
    thread.join()
    with reporter._publishing:
        pass


@forks_with_threads
def test_a_fork_does_not_wait_for_the_network() -> None:
    leave = threading.Event()

    def publish() -> None:
        with reporter._publishing:
            leave.wait(60)

    thread = threading.Thread(target=publish)
    thread.start()
    wait_until(reporter._publishing._lock.locked)
    assert _in_child(lambda: reporter._publishing._lock.acquire(timeout=60))
    leave.set()
    thread.join()


def _in_child(check: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1]) == 0
