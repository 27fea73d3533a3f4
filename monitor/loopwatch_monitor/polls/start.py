"""All questions, wired to the hub that takes the answers."""

from __future__ import annotations

from typing import Any

from loopwatch_monitor.hub import Hub
from loopwatch_monitor.polls.queues import QUEUE_SECONDS, ask_queues
from loopwatch_monitor.polls.thread import Poll
from loopwatch_monitor.polls.workers import WORKER_SECONDS, ask_workers
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.polls import QUEUES, WORKERS

__all__ = ["make_polls"]


def make_polls(settings: Settings, hub: Hub) -> list[Poll]:
    """The polls of a broker, not started."""
    url = settings.broker_url
    how: dict[str, Any] = {"options": settings.broker_transport_options, "ssl_options": settings.broker_ssl_options}
    met: set[str] = set()

    def queues() -> None:
        hub.measured(ask_queues(url, hub.queues(), **how))

    def workers() -> None:
        met.update(hub.strangers())
        hub.answered(ask_workers(url, **how))
        met.intersection_update(hub.strangers())

    return [
        Poll(QUEUES, url=url, seconds=QUEUE_SECONDS, ask=queues, failed=lambda: hub.unanswered(QUEUES)),
        Poll(
            WORKERS,
            url=url,
            seconds=WORKER_SECONDS,
            ask=workers,
            failed=lambda: hub.unanswered(WORKERS),
            # Until a new worker has said what it consumes, its tasks' queue is unknown.
            hurry=lambda: bool(hub.strangers() - met),
        ),
    ]
