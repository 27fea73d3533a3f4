"""What is asked of a broker that is not Redis, and of its workers: by kombu, and by Celery's remote control."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from amqp.exceptions import NotFound
from celery import Celery
from kombu import Connection
from kombu.transport.virtual import Channel as VirtualChannel

from loopwatch_monitor.intake.kombu import connect
from loopwatch_monitor.intake.tls_options import kombu_ssl
from loopwatch_monitor.polls.answers import COMMANDS, GATHER_SECONDS, SILENCE_SECONDS, Answers
from loopwatch_monitor.polls.questions import ANSWER_SECONDS, QUEUES_SECONDS
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.workers import Answer

__all__ = ["KombuQuestions"]


class _LateError(Exception):
    """The deadline is past."""


class KombuQuestions:
    """Asks by kombu; a connection a question.

    Args:
        url: the broker's.
        options: for kombu's transport.
        ssl_options: TLS.
    """

    def __init__(self, url: str, *, options: Mapping[str, Any], ssl_options: Mapping[str, Any]) -> None:
        self._url = url
        self._options = options
        self._ssl_options = ssl_options

    def queues(self, names: Iterable[str]) -> dict[str, Depth]:
        """See `loopwatch_monitor.polls.questions.Questions`."""
        deadline = time.monotonic() + QUEUES_SECONDS
        depths = {}
        with self._connect() as connection:
            for name in names:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"the queues took longer than {QUEUES_SECONDS:g} s")
                depth = _ask(connection, name)
                if depth is not None:
                    depths[name] = depth
        return depths

    def workers(self) -> dict[str, Answer]:
        """See `loopwatch_monitor.polls.questions.Questions`. One broadcast after the other."""
        answers = Answers()
        with Celery(broker=self._url, set_as_current=False) as app, self._connect() as connection:
            app.conf.update(accept_content=["json"])
            # Or it would publish by connections of the application's own, which know neither our patience nor our TLS.
            control: Any = app.control
            control.mailbox.producer_pool = None
            for command in COMMANDS:
                gather = _gatherer(answers, time.monotonic() + GATHER_SECONDS)
                with suppress(_LateError):
                    control.broadcast(
                        command, connection=connection, reply=True, timeout=SILENCE_SECONDS, callback=gather
                    )
        return answers.by_worker

    def _connect(self) -> Connection:
        """A connection on which no answer is waited for without end."""
        patience: dict[str, Any] = {}
        if self._url.startswith(("amqp", "pyamqp")):
            patience = {"read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
        return connect(
            self._url,
            timeout=ANSWER_SECONDS,
            options=patience | dict(self._options),
            ssl=kombu_ssl(self._url, self._ssl_options),
        )


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


def _gatherer(answers: Answers, deadline: float) -> Callable[[Any], None]:
    def gather(body: Any) -> None:
        answers.take(body)
        if time.monotonic() >= deadline:
            raise _LateError

    return gather
