"""What workers answer to Celery's remote control: the queues that each consumes, and how much it works."""

from __future__ import annotations

from typing import Any, Final

from loopwatch_monitor.state.labels import cut
from loopwatch_monitor.state.workers import MAX_HOSTS, Answer

__all__ = ["COMMANDS", "GATHER_SECONDS", "SILENCE_SECONDS", "Answers"]

COMMANDS: Final = ("active_queues", "stats")
"""What the workers are asked: remote control's names of it."""
SILENCE_SECONDS = 2.0
"""No answer for so long: that was all."""
GATHER_SECONDS = 15.0
"""For which the answers to one question are gathered at most."""
MAX_QUEUES = 100
MAX_COUNT = 2**53


class Answers:
    """Gathers them. ``by_worker``: what each worker said so far; one that is too busy to answer is not in it.

    >>> answers = Answers()
    >>> answers.take({"logs@host": [{"name": "logs"}]})
    >>> answers.take({"logs@host": {"pool": {"max-concurrency": 2}, "total": {"t": 5}}})
    >>> answers.by_worker
    {'logs@host': Answer(queues=('logs',), processes=2, processed=5)}
    """

    def __init__(self) -> None:
        self.by_worker: dict[str, Answer] = {}

    def take(self, body: Any) -> None:
        """Takes in a message: a worker's name and its answer. An answer in a list is that to `active_queues`, one in an
        object that to `stats`; anything else, such as ``{"error": ...}``, says nothing but that the worker lives."""
        for name, reply in body.items() if isinstance(body, dict) else ():
            answer = self._of(cut(name)) if isinstance(name, str) and name else None
            if answer is None:
                continue
            if isinstance(reply, list):
                answer.queues = _queues(reply)
            elif isinstance(reply, dict) and "error" not in reply:
                answer.processes, answer.processed = _numbers(reply)

    def _of(self, hostname: str) -> Answer | None:
        if hostname not in self.by_worker and len(self.by_worker) >= MAX_HOSTS:
            return None  # Nor would there be room to show it.
        return self.by_worker.setdefault(hostname, Answer())


def _queues(reply: list[Any]) -> tuple[str, ...]:
    names = (queue.get("name") for queue in reply[:MAX_QUEUES] if isinstance(queue, dict))
    return tuple(dict.fromkeys(cut(name) for name in names if isinstance(name, str) and name))


def _numbers(reply: dict[str, Any]) -> tuple[int | None, int | None]:
    """Processes (or threads), and tasks begun."""
    pool, total = reply.get("pool"), reply.get("total")
    processes = _count(pool.get("max-concurrency")) if isinstance(pool, dict) else None
    begun = [_count(number) for number in total.values()] if isinstance(total, dict) else None
    return processes, None if begun is None or None in begun else sum(filter(None, begun))


def _count(number: Any) -> int | None:
    return number if isinstance(number, int) and 0 <= number < MAX_COUNT else None
