"""What is asked of a Redis, and of its workers: kombu's conventions, over a connection of our own.

A queue is a list for each priority. Workers hear a broadcast on a channel, and push their answers to a list that it
names: Celery's remote control ("pidbox"). kombu binds such a list to an exchange first; an answer to the nameless
exchange goes where it is told all the same, and there is no binding to be left behind by a monitor that was killed.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

import hiredis

from loopwatch_monitor.intake.envelope import unwrap
from loopwatch_monitor.intake.redis_address import parse_address
from loopwatch_monitor.intake.redis_link import Link, connect
from loopwatch_monitor.polls.answers import COMMANDS, GATHER_SECONDS, SILENCE_SECONDS, Answers
from loopwatch_monitor.polls.questions import QUEUES_SECONDS
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.workers import Answer

__all__ = ["RedisQuestions"]

_PRIORITIES = range(10)
"""Celery's: an application may use any of them as kombu's ``priority_steps``, and need not tell us which."""
_SEPARATOR = "\x06\x16"
_EXCHANGE = "celery.pidbox"
_SOME = 100
"""Queues that are asked of, and answers that are fetched, in one go."""
STEP_SECONDS = 0.1
"""From one look for answers to the next."""
KEEP_SECONDS = 3600
"""How long Redis keeps an answer that nobody fetches: that of a worker which was busy, when the monitor is gone."""


class RedisQuestions:
    """Asks.

    Args:
        url: the broker's, as `loopwatch_monitor.intake.redis_address` says; what cannot be read is a `ValueError`.
        options: kombu's transport options; beside the address's, ``sep`` and ``priority_steps`` matter.
        ssl_options: TLS, with redis-py's names.
    """

    def __init__(self, url: str, *, options: Mapping[str, Any], ssl_options: Mapping[str, Any]) -> None:
        self._address = parse_address(url, options=options, ssl_options=ssl_options)
        self._prefix = str(options.get("global_keyprefix") or "")
        separator = options.get("sep", _SEPARATOR)
        others = sorted({*_PRIORITIES, *_steps(options)} - {0})
        self._endings = ("", *(f"{separator}{priority}" for priority in others))
        self._reply_to = f"{uuid.uuid4()}.reply.{_EXCHANGE}"

    def queues(self, names: Iterable[str]) -> dict[str, Depth]:
        """See `loopwatch_monitor.polls.questions.Questions`."""
        left, found = [*names], dict[str, Depth | hiredis.ReplyError]()
        deadline = time.monotonic() + QUEUES_SECONDS
        with closing(connect(self._address)) as link:
            while left:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"the queues took longer than {QUEUES_SECONDS:g} s")
                some, left = left[:_SOME], left[_SOME:]
                keys = [self._prefix + name + ending for name in some for ending in self._endings]
                lengths = link.ask_all([("LLEN", key) for key in keys])
                found |= {name: _depth([*islice(lengths, len(self._endings))]) for name in some}
        depths = {name: depth for name, depth in found.items() if isinstance(depth, Depth)}
        refusals = [refusal for refusal in found.values() if isinstance(refusal, hiredis.ReplyError)]
        if refusals and not depths:
            raise refusals[0]
        return depths

    def workers(self) -> dict[str, Answer]:
        """See `loopwatch_monitor.polls.questions.Questions`."""
        answers = Answers()
        with closing(connect(self._address)) as link:
            self._broadcast(link)
            begun = heard = time.monotonic()
            while (now := time.monotonic()) - heard < SILENCE_SECONDS and now - begun < GATHER_SECONDS:
                for message in self._fetch(link):
                    heard = time.monotonic()
                    answers.take(_body(message))
                if heard < now:
                    time.sleep(STEP_SECONDS)
        return answers.by_worker

    def _broadcast(self, link: Link) -> None:
        key = self._prefix + self._reply_to
        link.ask("DEL", key)
        # With something in it that is never fetched, so that the list, and its expiry, outlive the answers.
        link.ask("RPUSH", key, "")
        link.ask("EXPIRE", key, str(KEEP_SECONDS))
        for command in COMMANDS:
            message = _question(command, self._reply_to)
            for channel in link.endpoint.fanout:
                link.ask("PUBLISH", channel + _EXCHANGE, message)

    def _fetch(self, link: Link) -> Iterator[bytes]:
        """Some of the answers that have come; nobody else takes any."""
        key = self._prefix + self._reply_to
        waiting = link.ask("LLEN", key) - 1
        found = link.ask_all([("LPOP", key)] * min(waiting, _SOME))
        return (message for message in found if isinstance(message, bytes))


def _steps(options: Mapping[str, Any]) -> list[int]:
    steps = options.get("priority_steps", [])
    if not isinstance(steps, Iterable) or not all(isinstance(step, int) for step in steps):
        raise ValueError(f"the transport option priority_steps must be a JSON list such as [0, 3, 6, 9], not {steps!r}")
    return [*steps]


def _depth(lengths: list[Any]) -> Depth | hiredis.ReplyError:
    for length in lengths:
        # A key of that name that is no list is nobody's queue.
        if isinstance(length, hiredis.ReplyError) and not str(length).startswith("WRONGTYPE"):
            return length
    return Depth(sum(length for length in lengths if isinstance(length, int)))


def _question(command: str, reply_to: str) -> str:
    """A broadcast to all workers, as kombu's mailbox makes it."""
    question = {
        "method": command,
        "arguments": {},
        "destination": None,
        "pattern": None,
        "matcher": None,
        "ticket": command,
        "reply_to": {"exchange": "", "routing_key": reply_to},
    }
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(question).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {},
            "properties": {
                "delivery_mode": 1,
                "delivery_info": {"exchange": _EXCHANGE, "routing_key": ""},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _body(message: bytes) -> Any:
    """What is in an answer; None where it cannot be read (a pickle is not)."""
    try:
        return json.loads(unwrap(message, Counter()) or b"null")
    except (ValueError, RecursionError):
        return None
