"""Publishes events for the benchmarks: as fast as the broker takes them, or evenly over some seconds.

What is sent is made beforehand, so that making it is not what takes the time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from kombu import Connection, Exchange

from benchmarks.stream import envelopes, messages

__all__ = ["as_commands", "command", "to_rabbitmq", "to_redis"]

TOGETHER = 512
"""Messages that are sent at once."""


def as_commands(tasks: int) -> list[bytes]:
    """Redis' commands that publish the events of so many tasks, four each."""
    return [command("PUBLISH", channel, envelope) for channel, envelope in envelopes(tasks)]


def command(*words: str | bytes) -> bytes:
    """A command as Redis wants it."""
    encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def to_redis(url: str, commands: Sequence[bytes], *, seconds: float = 0) -> float:
    """Sends commands, and waits until all are answered; returns how many seconds that took."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        answers = connection.makefile("rb")
        connection.sendall(command("AUTH", where.password or ""))
        answers.readline()
        start = time.perf_counter()
        for some in _paced(commands, seconds):
            connection.sendall(b"".join(some))
            for _ in some:
                answer = answers.readline()
                if answer.startswith(b"-"):
                    raise RuntimeError(answer.decode())
        return time.perf_counter() - start


def to_rabbitmq(url: str, tasks: int, *, seconds: float = 0) -> float:
    """Publishes the events of so many tasks, and waits until RabbitMQ has them; returns how many seconds that took."""
    exchange = Exchange("celeryev", type="topic")
    with Connection(url) as connection, connection.Producer(exchange=exchange, serializer="json") as producer:
        producer.maybe_declare(exchange)
        channel: Any = producer.channel
        transport, frames = connection.connection.transport, list[bytes]()
        send, transport._write = transport._write, lambda frame: frames.append(bytes(frame))
        for routing_key, events in messages(tasks):
            body = events if routing_key == "task.multi" else events[0]
            producer.publish(body, routing_key=routing_key, delivery_mode=1, headers={"hostname": "rec@vm"})
        transport._write = send
        # py-amqp gives up a broker that takes nothing for a second; RabbitMQ holds back those who send too much.
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        start = time.perf_counter()
        for some in _paced(frames, seconds):
            send(b"".join(some))
        channel.exchange_declare("celeryev", "topic", passive=True)  # answered when all before it is done
        return time.perf_counter() - start


def _paced(things: Sequence[bytes], seconds: float) -> Iterator[Sequence[bytes]]:
    """Some of them at a time, each when it is due."""
    start = time.perf_counter()
    together = TOGETHER if not seconds else max(1, round(len(things) / seconds / 200))
    for begin in range(0, len(things), together):
        time.sleep(max(start + seconds * begin / len(things) - time.perf_counter(), 0))
        yield things[begin : begin + together]
