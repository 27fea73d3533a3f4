"""What the workers consume, by their own word: Celery's remote control, one broadcast a question."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from celery import Celery
from kombu import Connection

from loopwatch_monitor.polls.thread import open_connection
from loopwatch_monitor.state.labels import cut
from loopwatch_monitor.state.workers import Answer

__all__ = ["WORKER_SECONDS", "ask_workers"]

WORKER_SECONDS = 60.0
SILENCE_SECONDS = 2.0
"""No answer for so long: that was all."""
DEADLINE = 15.0
"""Seconds that the answers to one question are gathered at most."""
MAX_QUEUES = 100
MAX_COUNT = 2**53


class _LateError(Exception):
    """The deadline is past."""


def ask_workers(url: str, *, options: Mapping[str, Any], ssl_options: Mapping[str, Any]) -> dict[str, Answer]:
    """What each worker answered. One that is too busy to answer is not in it.

    Args:
        url: the broker's.
        options: for kombu's transport.
        ssl_options: TLS.

    Raises:
        Exception: what kombu's transport raises when the broker cannot be asked.
    """
    with (
        Celery(broker=url, set_as_current=False) as app,
        open_connection(url, options=options, ssl_options=ssl_options) as connection,
    ):
        app.conf.update(accept_content=["json"], broker_transport_options=dict(options))
        queues = _broadcast(app, connection, "active_queues")
        stats = _broadcast(app, connection, "stats")
    return {
        cut(hostname): Answer(_queues(queues.get(hostname)), *_numbers(stats.get(hostname)))
        for hostname in queues.keys() | stats.keys()
    }


def _broadcast(app: Celery, connection: Connection, command: str) -> dict[str, Any]:
    replies: dict[str, Any] = {}
    gather = _gatherer(replies, time.monotonic() + DEADLINE)
    with suppress(_LateError):
        app.control.broadcast(command, connection=connection, reply=True, timeout=SILENCE_SECONDS, callback=gather)
    return replies


def _gatherer(replies: dict[str, Any], deadline: float) -> Callable[[Any], None]:
    def gather(body: Any) -> None:
        if isinstance(body, dict):
            replies.update((name, reply) for name, reply in body.items() if isinstance(name, str) and name)
        if time.monotonic() >= deadline:
            raise _LateError

    return gather


def _queues(reply: Any) -> tuple[str, ...] | None:
    """The names in an answer to ``active_queues``; None where it is none (``{"error": ...}``)."""
    if not isinstance(reply, list):
        return None
    names = (queue.get("name") for queue in reply[:MAX_QUEUES] if isinstance(queue, dict))
    return tuple(dict.fromkeys(cut(name) for name in names if isinstance(name, str) and name))


def _numbers(reply: Any) -> tuple[int | None, int | None]:
    """Processes (or threads), and tasks begun, in an answer to ``stats``."""
    if not isinstance(reply, dict):
        return None, None
    pool, total = reply.get("pool"), reply.get("total")
    processes = _count(pool.get("max-concurrency")) if isinstance(pool, dict) else None
    begun = [_count(number) for number in total.values()] if isinstance(total, dict) else None
    return processes, None if begun is None or None in begun else sum(filter(None, begun))


def _count(number: Any) -> int | None:
    return number if isinstance(number, int) and 0 <= number < MAX_COUNT else None
