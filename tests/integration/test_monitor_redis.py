"""Every way to reach a Redis: unix socket, TLS, users, databases, prefixes, sentinels; and the events that Celery's own
dispatcher sends there come through."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, RedisError

from app.demo.servers import Server
from benchmarks.loss import burst
from benchmarks.stream import envelopes
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.redis import FLOOD_BYTES, RedisIntake
from loopwatch_monitor.intake.redis_address import parse_address
from loopwatch_monitor.intake.redis_link import Link
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.polls.questions import make_questions
from loopwatch_monitor.run import make_intake
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.queues import Depth
from tests.integration.certificates import self_signed
from tests.integration.monitor_hub import consuming, emit
from tests.integration.monitor_process import running_monitor, until
from tests.integration.redis_broker import Broker, redis_program, running_broker
from tests.ports import refusing_port, server_port

RECEIVED = "celery_task_received_total{"


def depth(broker: str, **options: Any) -> Depth:
    """How long the queue logs is, as the monitor asks."""
    return make_questions(broker, options=options, ssl_options={}).queues(["logs"])["logs"]


def comes_through(broker: str, sender: str | None = None, conf: dict[str, Any] | None = None, **settings: Any) -> None:
    """What a worker of this configuration sends is counted."""
    with consuming(broker, **settings) as monitor:
        emit(sender or broker, 3, **conf or {})
        monitor.waits_for(RECEIVED, 3)


def probe(broker: str, **settings: Any) -> None:
    """Connects once."""
    chosen = Settings(broker_url=broker, **settings)
    make_intake(chosen, Hub(chosen, status=BrokerStatus(), version="1"), BrokerStatus()).probe()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fanout_prefix": False},
        {"fanout_prefix": "mine/{db}."},
        {"fanout_patterns": False},
        {"global_keyprefix": "team[1]*:"},
    ],
    ids=str,
)
def test_transport_options(redis_url: str, options: dict[str, Any]) -> None:
    comes_through(redis_url, conf={"broker_transport_options": options}, broker_transport_options=options)


def test_another_exchange_and_only_that(redis_url: str) -> None:
    with consuming(redis_url, event_exchange="mine") as monitor:
        emit(redis_url, 5)
        emit(redis_url, 3, event_exchange="mine")
        monitor.waits_for(RECEIVED, 3)


def test_another_database_is_not_listened_to(redis_url: str) -> None:
    number = int(redis_url.rpartition("/")[2])
    other = f"{redis_url.rpartition('/')[0]}/{number + 1}"
    with consuming(redis_url) as monitor:
        emit(other, 5)
        emit(redis_url, 3)
        monitor.waits_for(RECEIVED, 3)


def test_a_unix_socket(redis_server: Server, tmp_path: Path) -> None:
    with running_broker(redis_server, tmp_path, unixsocket=str(tmp_path / "redis.sock")):
        comes_through(f"redis+socket://{tmp_path}/redis.sock")
        comes_through(f"redis+socket://{tmp_path}/redis.sock?virtual_host=3")
        with Redis(unix_socket_path=f"{tmp_path}/redis.sock", db=3) as client:
            client.lpush("logs", "m")
        assert depth(f"redis+socket://{tmp_path}/redis.sock?virtual_host=3") == Depth(1)
        assert depth(f"redis+socket://{tmp_path}/redis.sock") == Depth(0)
        with pytest.raises(BrokerUnreachableError, match="No such file"):
            probe(f"redis+socket://{tmp_path}/other.sock")


def test_a_user_who_may_only_subscribe(redis_server: Server, tmp_path: Path) -> None:
    with running_broker(redis_server, tmp_path) as broker:
        rights = ("resetchannels", "&/0.celeryev/*", "+psubscribe", "+ping")
        broker.do("ACL", "SETUSER", "watcher", "on", ">se:cr@t", *rights)
        watcher = broker.url.replace("//", "//watcher:se%3Acr%40t@")
        comes_through(watcher, sender=broker.url)
        broker.do("ACL", "SETUSER", "watcher", "resetchannels")
        with pytest.raises(BrokerUnreachableError, match="NOPERM") as caught:
            probe(watcher)
        assert "cr" not in str(caught.value)


def test_a_user_who_is_a_monitor_and_nothing_else(redis_server: Server, tmp_path: Path) -> None:
    """With the rights that the documentation gives him."""
    page = (Path(__file__).parents[2] / "docs" / "monitor.md").read_text()
    rights = [line.split() for line in page.splitlines() if line.startswith("ACL ")]
    assert rights
    with running_broker(redis_server, tmp_path) as broker:
        for words in rights:
            broker.do(*words)
        monitor = broker.url.replace("//", "//monitor:password@")
        comes_through(monitor, sender=broker.url)
        assert depth(monitor) == Depth(0)
        assert make_questions(monitor, options={}, ssl_options={}).workers() == {}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_port(redis_server: Server, tmp_path: Path, certificate: Path) -> Iterator[int]:
    port = server_port()
    files = dict.fromkeys(("tls_cert_file", "tls_key_file", "tls_ca_cert_file"), str(certificate))
    with running_broker(redis_server, tmp_path, tls_port=str(port), **files):
        yield port


def test_tls(tls_port: int, certificate: Path) -> None:
    """Client certificates are Redis' default."""
    files = f"ssl_ca_certs={certificate}&ssl_certfile={certificate}&ssl_keyfile={certificate}"
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_cert_reqs=required&{files}"
    with consuming(url) as monitor:
        emit(url, 3)
        monitor.waits_for(RECEIVED, 3)
        # More than a record of TLS, and more than one read.
        with Redis.from_url(url) as client:
            for channel, envelope in envelopes(2_000):
                client.publish(channel, envelope)
            client.lpush("logs", "m")
        monitor.waits_for("loopwatch_monitor_events_total{", 8_003)
        assert not monitor.status.lost
    assert depth(url) == Depth(1)


@pytest.mark.parametrize(
    ("query", "error"),
    [("", "certificate verify failed"), ("?ssl_cert_reqs=none", "certificate required|closed|alert|reset|EOF")],
    ids=["a server that we have no reason to trust", "no client certificate"],
)
def test_tls_that_is_refused(tls_port: int, query: str, error: str) -> None:
    url = f"rediss://127.0.0.1:{tls_port}/0{query}"
    with pytest.raises(BrokerUnreachableError, match=error):
        probe(url)


def test_several_servers(redis_url: str) -> None:
    """The first does not answer."""
    with refusing_port() as port:
        several = f"redis://127.0.0.1:{port};{redis_url}"
        comes_through(several, sender=redis_url)
        assert depth(several) == Depth(0)


def test_a_burst_is_drained_whole(redis_server: Server, tmp_path: Path) -> None:
    """At Redis' own buffer limits, by what `make bench` measures a larger one with."""
    assert burst(tmp_path, tasks=10_000).lost == 0


def subscribed(url: str) -> Link:
    (endpoint,) = parse_address(url).endpoints
    link = Link(endpoint)
    link.subscribe(endpoint.pattern)
    return link


def test_a_flood_is_told_while_it_lasts(redis_url: str) -> None:
    """Pages are made after it."""
    status = BrokerStatus()
    hub = Hub(Settings(broker_url=redis_url), status=status, version="1")
    intake = RedisIntake(redis_url, sink=hub.receive, status=status)
    link = subscribed(redis_url)
    channel = f"/{redis_url.rpartition('/')[2]}.celeryev/task.multi"
    with Redis.from_url(redis_url) as client:

        def flooded() -> bool:
            assert client.publish(channel, b"x" * 8 * FLOOD_BYTES) == 1
            intake._read(link, 1.0)
            return status.flooded

        def calm() -> bool:
            intake._read(link, 0.1)
            return not status.flooded

        until(flooded, "the flood")
        until(calm, "its end")
    link.close()
    # Nor is a page kept waiting by what a connection that is lost has left.
    status.flooded = True
    intake._stopping.set()
    intake._consume()
    assert not status.flooded


def test_how_many_subscribers_redis_cut_off_is_asked_where_it_tells(redis_url: str) -> None:
    """Redis 7.4, Valkey 8 and later do."""
    with Redis.from_url(redis_url) as client:
        told = client.info("stats").get("client_output_buffer_limit_disconnections")
    link = subscribed(redis_url)
    link.close()
    assert link.cut_offs == told


class Sentinels:
    """A master, its replica, and a sentinel that promotes the replica."""

    def __init__(self, server: Server, directory: Path) -> None:
        (directory / "a").mkdir()
        (directory / "b").mkdir()
        program = redis_program(server)
        self.master = Broker(program, directory / "a", repl_diskless_sync_delay="0")
        self.replica = Broker(program, directory / "b", replicaof=f"127.0.0.1 {self.master.port}")
        self.port = server_port()
        self.url = f"sentinel://127.0.0.1:{server_port()};sentinel://127.0.0.1:{self.port}"
        self._settings = directory / "sentinel.conf"
        self._command = ["redis-sentinel", str(self._settings), "--sentinel"]
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts all three, and waits until the replica has its copy and the sentinel knows of it."""
        self.master.start()
        self.replica.start()
        until(self._copied, "the replica's copy")
        self._settings.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._settings.parent}\n"
            f"sentinel monitor main 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds main 60000\nsentinel failover-timeout main 5000\n"
        )
        self._process = subprocess.Popen(self._command, executable=self._program, stdout=subprocess.DEVNULL)
        until(lambda: self.asked("REPLICAS", "main") not in (None, []), "the sentinel to know the replica")

    def _copied(self) -> bool:
        told = self.replica.do("INFO", "replication")
        return isinstance(told, dict) and told["master_link_status"] == "up"

    def lose_the_master(self) -> None:
        """Kills it. Until now the sentinel was patient, as a master that had to wait for a processor is not lost."""
        assert self.asked("SET", "main", "down-after-milliseconds", "1000")
        self.master.kill()

    def asked(self, *command: str) -> Any:
        """The sentinel's answer, None while there is none."""
        try:
            with Redis(port=self.port, decode_responses=True) as client:
                return client.execute_command("SENTINEL", *command)
        except RedisError:
            return None

    def close(self) -> None:
        """Ends all three."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.replica.kill()
        self.master.kill()


@pytest.fixture
def sentinels(redis_server: Server, tmp_path: Path) -> Iterator[Sentinels]:
    found = Sentinels(redis_server, tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.close()


def test_a_failover_by_sentinels(sentinels: Sentinels, tmp_path: Path) -> None:
    """The first of the two sentinels is not there."""
    options = ("--broker-transport-option", "master_name=main")
    with running_monitor(sentinels.url, tmp_path, *options) as monitor:
        emit(sentinels.url, 3, broker_transport_options={"master_name": "main"})
        sentinels.master.do("LPUSH", "logs", "m")
        assert depth(sentinels.url, master_name="main") == Depth(1)
        until(lambda: monitor.value("celery_task_received_total") == 3, "3 events")
        until(lambda: sentinels.replica.do("LLEN", "logs") == 1, "the replica to have the task")
        sentinels.lose_the_master()
        until(lambda: monitor.value("loopwatch_monitor_reconnects_total") == 1, "the loss")
        assert monitor.value("celery_task_received_total") == 3
        until(lambda: monitor.value("loopwatch_monitor_broker_up") == 1, "the new master")
        assert sentinels.asked("GET-MASTER-ADDR-BY-NAME", "main")[1] == str(sentinels.replica.port)
        emit(sentinels.replica.url, 2)
        until(lambda: sentinels.replica.do("LPUSH", "logs", "m", "m") == 3, "the replica to take the queue over")
        assert depth(sentinels.url, master_name="main") == Depth(3)
        until(lambda: monitor.value("celery_task_received_total") == 5, "5 events")


def test_a_name_that_the_sentinels_do_not_know(sentinels: Sentinels) -> None:
    options = {"master_name": "other"}
    with pytest.raises(BrokerUnreachableError, match="knows no server named other"):
        probe(sentinels.url, broker_transport_options=options)
