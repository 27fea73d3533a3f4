"""How long the queues are, by the broker's word."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from amqp.exceptions import NotFound
from kombu import Connection
from kombu.transport.virtual import Channel as VirtualChannel

from loopwatch_monitor.intake.redis_address import is_redis
from loopwatch_monitor.polls.thread import open_connection
from loopwatch_monitor.state.queues import Depth

__all__ = ["DEADLINE", "QUEUE_SECONDS", "ask_queues"]

QUEUE_SECONDS = 10.0
DEADLINE = 30.0
"""Seconds that all queues together may take."""
_PRIORITIES = range(10)
"""Celery's: an application may use any of them as kombu's ``priority_steps``, and need not tell us which."""


def ask_queues(
    url: str, names: Iterable[str], *, options: Mapping[str, Any], ssl_options: Mapping[str, Any]
) -> dict[str, Depth]:
    """The queues' depths. A queue that does not exist is empty; one of which the broker says nothing is left out.

    Args:
        url: the broker's.
        names: the queues'.
        options: for kombu's transport.
        ssl_options: TLS.

    Raises:
        TimeoutError: it took longer than `DEADLINE`.
        Exception: what kombu's transport raises when the broker cannot be asked.
    """
    with open_connection(url, options=options, ssl_options=ssl_options) as connection:
        if is_redis(url):
            return _ask_redis(connection.default_channel, [*names])
        deadline = time.monotonic() + DEADLINE
        depths = {}
        for name in names:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the queues took longer than {DEADLINE:g} s")
            depth = _ask(connection, name)
            if depth is not None:
                depths[name] = depth
        return depths


def _ask_redis(channel: Any, names: list[str]) -> dict[str, Depth]:
    """One list a priority; all in one go. The channel's client minds the ``global_keyprefix``."""
    others = sorted({*_PRIORITIES, *map(int, channel.priority_steps)} - {0})
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipeline:
        for name in names:
            for key in (name, *(f"{name}{channel.sep}{priority}" for priority in others)):
                pipeline.llen(key)
        # A key of that name that is no list is nobody's queue.
        sizes = [size if isinstance(size, int) else 0 for size in pipeline.execute(raise_on_error=False)]
    lists = 1 + len(others)
    return {name: Depth(sum(sizes[lists * at : lists * (at + 1)])) for at, name in enumerate(names)}


def _ask(connection: Connection, name: str) -> Depth | None:
    channel: Any = connection.channel()
    try:
        if isinstance(channel, VirtualChannel):
            return Depth(channel._size(name))
        told = channel.queue_declare(name, passive=True)
        return Depth(told.message_count, told.consumer_count)
    except NotFound:
        return Depth(0, 0)
    except connection.channel_errors:
        return None  # somebody else's own (exclusive), or not for us to see
    finally:
        # An error has closed it, and with it what would be asked next: a channel each.
        channel.close()
