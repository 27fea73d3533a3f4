"""The intake: our rate against celery's EventReceiver and Flower, on Redis and RabbitMQ, and what a burst loses.

Each consumer is a process of its own. It is stopped (SIGSTOP) while the events are published, so that all of them lie
in the broker, and then let go: what is compared is events a CPU-second. Rounds are interleaved.

``python -m benchmarks.intake`` prints it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from kombu import Connection, Exchange

from app.demo.servers import ServerMissingError, start_redis
from benchmarks.consumers import Consumed
from benchmarks.stream import envelopes, messages
from tests.rabbitmq import start_rabbitmq

__all__ = ["BURST_TASKS", "Rates", "burst", "rates_on_rabbitmq", "rates_on_redis"]

TASKS = 12_500
"""Four events each."""
BURST_TASKS = 50_000
ROUNDS = 3
Rates = dict[str, list[float]]
"""Events a CPU-second by consumer, round by round."""
_Publish = Callable[[str, int], None]


def rates_on_redis(directory: Path, *, tasks: int = TASKS, rounds: int = ROUNDS) -> Rates:
    """On a Redis that keeps everything for a subscriber however slow it is."""
    server = start_redis(directory)
    try:
        _redis(server.url, [_command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")])
        return _rates(server.url, _publish_to_redis, tasks, rounds)
    finally:
        server.close()


def rates_on_rabbitmq(directory: Path, *, tasks: int = TASKS, rounds: int = ROUNDS) -> Rates:
    """On RabbitMQ."""
    server = start_rabbitmq(directory)
    try:
        return _rates(server.url(), _publish_to_rabbitmq, tasks, rounds)
    finally:
        server.close()


def burst(directory: Path, *, tasks: int = BURST_TASKS, consumer: str = "loopwatch") -> tuple[Consumed, float]:
    """Sends the events as fast as Redis takes them, its buffer limits being its own; what was consumed, and in how many
    seconds it was sent."""
    server = start_redis(directory)
    try:
        with _consumer(consumer, server.url, 4 * tasks) as process:
            stream = _as_commands(tasks)
            start = time.perf_counter()
            _redis(server.url, stream)
            seconds = time.perf_counter() - start
            return _result(process), seconds
    finally:
        server.close()


def consumers() -> list[str]:
    """Those that can be run here: Flower need not be installed."""
    return ["loopwatch", "EventReceiver", *(["flower"] if find_spec("flower") else [])]


def _rates(broker: str, publish: _Publish, tasks: int, rounds: int) -> Rates:
    found: dict[str, list[float]] = {name: [] for name in consumers()}
    for _ in range(rounds):
        for name, rates in found.items():
            with _consumer(name, broker, 4 * tasks) as process:
                os.kill(process.pid, signal.SIGSTOP)
                try:
                    publish(broker, tasks)
                finally:
                    os.kill(process.pid, signal.SIGCONT)
                rates.append(_result(process).rate)
    return found


@contextmanager
def _consumer(name: str, broker: str, events: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.consumers", name, broker, str(events)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()) != "ready\n":
                if not line:
                    raise RuntimeError(f"the consumer {name} did not start")
            yield process
        finally:
            process.kill()


def _result(process: subprocess.Popen[str]) -> Consumed:
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    return Consumed(**json.loads(lines[-1]))


def _publish_to_redis(url: str, tasks: int) -> None:
    _redis(url, _as_commands(tasks))


def _as_commands(tasks: int) -> list[bytes]:
    return [_command("PUBLISH", channel, envelope) for channel, envelope in envelopes(tasks)]


def _command(*words: str | bytes) -> bytes:
    encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def _redis(url: str, commands: Sequence[bytes], together: int = 512) -> None:
    """Sends commands as fast as it goes, and waits until all are answered."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        answers = connection.makefile("rb")
        connection.sendall(_command("AUTH", where.password or ""))
        answers.readline()
        for begin in range(0, len(commands), together):
            some = commands[begin : begin + together]
            connection.sendall(b"".join(some))
            for _ in some:
                answer = answers.readline()
                if answer.startswith(b"-"):
                    raise RuntimeError(answer.decode())


def _publish_to_rabbitmq(url: str, tasks: int) -> None:
    exchange = Exchange("celeryev", type="topic")
    with Connection(url) as connection, connection.Producer(exchange=exchange, serializer="json") as producer:
        for routing_key, events in messages(tasks):
            body = events if routing_key == "task.multi" else events[0]
            producer.publish(body, routing_key=routing_key, delivery_mode=1, headers={"hostname": "rec@vm"})


def main() -> int:
    """Prints everything; exit code 2 when there is no Redis."""
    with tempfile.TemporaryDirectory(prefix="loopwatch-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        try:
            _print("Redis", rates_on_redis(directory / "redis"))
            consumed, seconds = burst(directory / "burst")
            _print("RabbitMQ", rates_on_rabbitmq(directory / "rabbitmq"))
        except ServerMissingError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        print(f"\nA burst of {4 * BURST_TASKS} events in {seconds:.2f} s at Redis' own buffer limits")
        print(f"  lost {4 * BURST_TASKS - consumed.events}, {consumed.rate:,.0f} events a CPU-second")
        print(f"  resident memory {consumed.peak_bytes >> 20} MiB at its peak, {consumed.end_bytes >> 20} MiB after it")
    return 0


def _print(broker: str, rates: Rates) -> None:
    print(f"\nEvents a CPU-second, held back in {broker} and then drained")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ours = medians["loopwatch"]
    for name, rate in medians.items():
        print(f"  {name:16} {rate:12,.0f} {ours / rate:7.2f}x", flush=True)


if __name__ == "__main__":
    sys.exit(main())
