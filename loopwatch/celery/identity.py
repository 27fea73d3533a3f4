"""Who and where a task is: its node's slot and pool, and the queue that it came from.

A task's message names an exchange and a routing key, not its queue. The queue's name is a label, so it is only ever
one that the application has declared; a raw routing key is a new value per delay, per topic or per attacker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import billiard
from celery import Celery, concurrency

__all__ = ["UNKNOWN", "Queues", "pool_name", "slot"]

UNKNOWN = "unknown"

MAX_KNOWN = 1000
"""Routes whose queue is remembered; a topic exchange may have any number of routing keys."""

# Native delayed delivery (quorum queues with an ETA): 28 levels, one bit each, before the routing key.
_DELAYED = re.compile(r"^(?:[01]\.){28}")
_DELIVERY = "celery_delayed_delivery"
"""The exchange that such a message comes from in the end, whatever the exchange it was sent to. Celery binds those of
all queues to it, and the queues to their exchanges, by ``#.`` and the queue's own key; direct exchanges excepted."""


def slot() -> int:
    """The index of this process in its pool, stable over recycling and autoscaling; 0 where there is none."""
    return int(getattr(billiard.current_process(), "index", 0))


def pool_name(pool: object) -> str:
    """The name of a worker's pool class as on the command line: ``prefork``, ``threads``, ``solo`` ..."""
    if isinstance(pool, str):
        return pool
    path = f"{getattr(pool, '__module__', '')}:{getattr(pool, '__qualname__', '')}"
    aliases: dict[str, str] = getattr(concurrency, "ALIASES", {})
    return next((alias for alias, known in aliases.items() if known == path), path)


class _Binding(NamedTuple):
    label: str
    queue: str
    exchange: str
    kind: str
    key: str

    def takes(self, exchange: str, key: str) -> bool:
        if not exchange:  # the default exchange: to the queue of that name, whatever its bindings are
            return key == self.queue
        if exchange == _DELIVERY:
            return self.kind != "direct" and topic_matches(f"#.{self.key}", key)
        if exchange != self.exchange:
            return False
        if self.kind == "topic":
            return topic_matches(self.key, key)
        return self.kind == "fanout" or key == self.key


def topic_matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange delivers ``key`` to a binding of ``pattern``: ``*`` one word, ``#`` any number."""
    return _words_match(pattern.split("."), key.split("."))


def _words_match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_words_match(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _words_match(pattern[1:], words[1:])


class Queues:
    """The queue of a message, from the queues that the application has declared."""

    def __init__(self, app: Celery[Any]) -> None:
        self._app = app
        self._known: dict[tuple[str, str], str] = {}

    def consumed(self) -> list[str]:
        """The queues that this worker consumes, sorted."""
        return sorted(_label(name, queue) for name, queue in self._app.amqp.queues.consume_from.items())

    def of(self, delivery_info: Mapping[str, Any] | None) -> str:
        """The queue that a message with this delivery information came from, or ``unknown``."""
        info = delivery_info or {}
        routing_key = str(info.get("routing_key") or "")
        key = _DELAYED.sub("", routing_key)
        route = (str(info.get("exchange") or "") if key == routing_key else _DELIVERY), key
        name = self._known.get(route)
        if name is None:
            name = self._find(*route)
            if len(self._known) < MAX_KNOWN:
                self._known[route] = name
        return name

    def _find(self, exchange: str, key: str) -> str:
        queues = self._app.amqp.queues
        consumed = queues.consume_from
        for candidates in (consumed, queues):
            names = {one.label for one in _bindings(candidates) if one.takes(exchange, key)}
            if len(names) == 1:
                return names.pop()
        return _label(*next(iter(consumed.items()))) if len(consumed) == 1 else UNKNOWN


def _label(name: str, queue: Any) -> str:
    """What a queue is called. A broadcast's own name is a new one at each start; its alias is what people wrote."""
    return str(queue.alias or name)


def _bindings(queues: Mapping[str, Any]) -> Iterator[_Binding]:
    for name, queue in queues.items():
        for bound in queue.bindings or (queue,):
            exchange = bound.exchange
            yield _Binding(
                _label(name, queue),
                name,
                getattr(exchange, "name", ""),
                getattr(exchange, "type", "direct"),
                str(bound.routing_key or ""),
            )
