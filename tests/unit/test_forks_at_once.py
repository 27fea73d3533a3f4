"""Two threads that fork at once, while the reporter may be publishing."""

from __future__ import annotations

import threading

import pytest

from loopwatch.telemetry import reporter


def test_the_reporter_can_go_on_after_two_threads_have_forked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "FORK_WAIT", 0.01)
    publishing = reporter._Publishing()
    publishing.before_fork()
    other = threading.Thread(target=publishing.before_fork)  # it gives up waiting for us, and forks
    other.start()
    other.join()
    publishing.after_fork_in_parent()
    went_on = threading.Event()

    def publish() -> None:
        with publishing:
            went_on.set()

    threading.Thread(target=publish, daemon=True).start()
    assert went_on.wait(60)


def test_a_fork_releases_nothing_that_another_thread_holds() -> None:
    publishing = reporter._Publishing()
    publishing.before_fork()
    other = threading.Thread(target=publishing.after_fork_in_parent)
    other.start()
    other.join()
    assert publishing._lock.locked()
    publishing.after_fork_in_parent()
    assert not publishing._lock.locked()
