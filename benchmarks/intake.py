"""The intake: our rate against celery's EventReceiver and Flower, on Redis and RabbitMQ.

Each consumer is a process of its own. It is stopped (SIGSTOP) while the events are published, so that all of them lie
in the broker, and then let go: what is compared is events a CPU-second. Rounds are interleaved.

``python -m benchmarks.intake`` prints it.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from app.demo.servers import ServerMissingError, start_redis
from benchmarks.consumers import Consumed
from benchmarks.publish import as_commands, command, to_rabbitmq, to_redis
from tests.rabbitmq import start_rabbitmq

__all__ = ["Rates", "consumers", "rates_on_rabbitmq", "rates_on_redis", "result", "running"]

TASKS = 12_500
"""Four events each."""
ROUNDS = 3
HELD_TTL, CELERYS_TTL = 600.0, 5.0
"""Seconds that a broker keeps an event in Celery's own queues: for as long as we hold them back; Celery's default."""
Rates = dict[str, list[float]]
"""Events a CPU-second by consumer, round by round."""


def rates_on_redis(directory: Path, *, tasks: int = TASKS, rounds: int = ROUNDS) -> Rates:
    """On a Redis that keeps everything for a subscriber however slow it is."""
    server = start_redis(directory)
    try:
        to_redis(server.url, [command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")])
        commands = as_commands(tasks)
        return _rates(server.url, lambda: to_redis(server.url, commands), tasks, rounds)
    finally:
        server.close()


def rates_on_rabbitmq(directory: Path, *, tasks: int = TASKS, rounds: int = ROUNDS) -> Rates:
    """On RabbitMQ."""
    server = start_rabbitmq(directory)
    try:
        return _rates(server.url(), lambda: to_rabbitmq(server.url(), tasks), tasks, rounds)
    finally:
        server.close()


def consumers() -> list[str]:
    """Those that can be run here: Flower need not be installed."""
    return ["loopwatch", "EventReceiver", *(["flower"] if find_spec("flower") else [])]


def _rates(broker: str, publish: Callable[[], object], tasks: int, rounds: int) -> Rates:
    found: dict[str, list[float]] = {name: [] for name in consumers()}
    for _ in range(rounds):
        for name, rates in found.items():
            with running(name, broker, 4 * tasks, ttl=HELD_TTL) as process:
                os.kill(process.pid, signal.SIGSTOP)
                try:
                    publish()
                finally:
                    os.kill(process.pid, signal.SIGCONT)
                rates.append(result(process).rate)
    return found


@contextmanager
def running(name: str, broker: str, events: int, *, ttl: float = CELERYS_TTL) -> Iterator[subprocess.Popen[str]]:
    """A consumer that is subscribed."""
    arguments = [sys.executable, "-m", "benchmarks.consumers", name, broker, str(events), str(ttl)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while (line := process.stdout.readline()) != "ready\n":
                if not line:
                    raise RuntimeError(f"the consumer {name} did not start")
            yield process
        finally:
            process.kill()


def result(process: subprocess.Popen[str]) -> Consumed:
    """What it has done, once it is done."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    return Consumed(**json.loads(lines[-1]))


def main() -> int:
    """Prints everything; exit code 2 when there is no Redis."""
    with tempfile.TemporaryDirectory(prefix="loopwatch-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        try:
            _print("Redis", rates_on_redis(directory / "redis"))
            _print("RabbitMQ", rates_on_rabbitmq(directory / "rabbitmq"))
        except ServerMissingError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
    return 0


def _print(broker: str, rates: Rates) -> None:
    print(f"\nEvents a CPU-second, held back in {broker} and then drained")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ours = medians["loopwatch"]
    for name, rate in medians.items():
        print(f"  {name:16} {rate:12,.0f} {ours / rate:7.2f}x", flush=True)


if __name__ == "__main__":
    sys.exit(main())
