"""What is asked of a broker and of its workers, whoever asks: `loopwatch_monitor.polls.redis` over a connection of our
own, `loopwatch_monitor.polls.kombu` everywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from loopwatch_monitor.intake.redis_address import is_redis
from loopwatch_monitor.intake.tls_options import redis_ssl
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.workers import Answer

__all__ = ["ANSWER_SECONDS", "QUEUES_SECONDS", "Questions", "make_questions"]

ANSWER_SECONDS = 5
"""How long the broker may take for one answer."""
QUEUES_SECONDS = 30.0
"""How long all queues together may take."""


class Questions(Protocol):
    """Asks, with a connection of its own each time. Raises what went wrong."""

    def queues(self, names: Iterable[str]) -> dict[str, Depth]:
        """The queues' depths. A queue that does not exist is empty; one of which the broker says nothing is left out.
        A `TimeoutError`: it took longer than `QUEUES_SECONDS`."""

    def workers(self) -> dict[str, Answer]:
        """What each worker answered. One that is too busy to answer is not in it."""


def make_questions(url: str, *, options: Mapping[str, Any], ssl_options: Mapping[str, Any]) -> Questions:
    """For the broker at ``url``, with kombu's transport options; raises `ValueError` where they cannot work."""
    if not is_redis(url):
        # Only now: Celery and kombu's transports are a third of our memory.
        from loopwatch_monitor.polls.kombu import KombuQuestions

        return KombuQuestions(url, options=options, ssl_options=ssl_options)
    from loopwatch_monitor.polls.redis import RedisQuestions

    return RedisQuestions(url, options=options, ssl_options=redis_ssl(ssl_options))
