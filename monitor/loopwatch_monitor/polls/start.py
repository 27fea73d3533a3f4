"""All questions, wired to the hub that takes the answers."""

from __future__ import annotations

from loopwatch_monitor.hub import Hub
from loopwatch_monitor.polls.questions import make_questions
from loopwatch_monitor.polls.thread import Poll
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.polls import QUEUES, WORKERS

__all__ = ["make_polls"]

QUEUE_SECONDS = 10.0
WORKER_SECONDS = 60.0


def make_polls(settings: Settings, hub: Hub) -> list[Poll]:
    """The polls of a broker, not started. The workers are asked each time, whatever they tell by themselves: some may
    send nothing at all, and are known by their answers alone."""
    url, options = settings.broker_url, settings.broker_transport_options
    ask = make_questions(url, options=options, ssl_options=settings.broker_ssl_options)
    met: set[str] = set()

    def queues() -> None:
        hub.measured(ask.queues(hub.queues()))

    def workers() -> None:
        met.update(hub.strangers())
        hub.answered(ask.workers())
        met.intersection_update(hub.strangers())

    return [
        Poll(
            QUEUES, url=url, options=options, seconds=QUEUE_SECONDS, ask=queues, failed=lambda: hub.unanswered(QUEUES)
        ),
        Poll(
            WORKERS,
            url=url,
            options=options,
            seconds=WORKER_SECONDS,
            ask=workers,
            failed=lambda: hub.unanswered(WORKERS),
            # Until a new worker has said what it consumes, its tasks' queue is unknown.
            hurry=lambda: bool(hub.strangers() - met),
        ),
    ]
