"""Redis over TLS, over a Unix socket, and as a cluster: each on many loops, at a bare close, over a fork, guarded."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from redis.asyncio import RedisCluster

from loopwatch import LoopConflictError, PerLoop, redis_from_url
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.integration.certificates import self_signed
from tests.integration.redis_servers import redis_process, wait_until
from tests.integration.redis_sessions import Client, Sessions, everything
from tests.ports import server_port

RUNNERS = [asyncio.run, uvloop.run]
FACTORIES = [asyncio.new_event_loop, uvloop.new_event_loop]
Factory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of one server: ``rediss`` with a certificate that is checked, ``unix``, and ``redis`` to ask it."""
    directory = tmp_path_factory.mktemp("redis")
    certificate = self_signed(directory)
    port, path = server_port(), directory / "redis.sock"
    tls = (f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {certificate}", "tls-auth-clients no")
    with redis_process(directory / "data", *tls, f"tls-ca-cert-file {certificate}", f"unixsocket {path}") as server:
        yield {
            "rediss": f"rediss://127.0.0.1:{port}/1?ssl_ca_certs={certificate}",
            "unix": f"unix://{path}?db=1",
            "redis": f"redis://127.0.0.1:{server.port}",
        }


@pytest.fixture(params=["rediss", "unix"])
def url(request: pytest.FixtureRequest, places: dict[str, str]) -> str:
    return places[request.param]


@pytest.fixture
def client(url: str) -> Client:
    return redis_from_url(url, client_name="app", decode_responses=True)


@pytest.fixture
def sessions(places: dict[str, str]) -> Iterator[Sessions]:
    found = Sessions(places["redis"])
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _numbers() -> Iterator[None]:
    gc.collect()
    STATS.reset()
    yield
    STATS.reset()


@pytest.mark.parametrize("run", RUNNERS)
def test_one_global_client_on_many_loops(run: Callable[..., None], client: Client, sessions: Sessions) -> None:
    for _ in range(10):
        run(everything(client))
    assert sessions.become(0)
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("redis/1", "loop_end")) == 10
    assert STATS.value(catalogue.POOL_CREATE, ("redis/1",)) >= 10


@pytest.mark.parametrize("loop_factory", FACTORIES)
def test_a_bare_loop_close_is_swept(loop_factory: Factory, client: Client, sessions: Sessions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # redis-py and asyncio rightly warn of what is left open
        loop = loop_factory()
        pubsub = client.pubsub()  # keeps its connection from the garbage collector
        loop.run_until_complete(pubsub.subscribe("channel"))
        loop.run_until_complete(client.ping())
        loop.close()
        asyncio.run(client.ping())
        assert sessions.become(0)
        del loop, pubsub
        gc.collect()


@pytest.mark.parametrize("loop_factory", FACTORIES)
def test_a_fork_harms_neither_side(loop_factory: Factory, client: Client, sessions: Sessions) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(everything(client))
        before = sessions()
        _in_a_child(lambda: asyncio.run(everything(client)))
        assert sessions.become(before)
        runner.run(everything(client))
    assert sessions.become(0)


def _in_a_child(use: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            use()
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pubsub_of_another_loop_is_refused(client: Client, sessions: Sessions) -> None:
    with asyncio.Runner() as owner, asyncio.Runner() as other:
        pubsub = client.pubsub()
        owner.run(pubsub.subscribe("channel"))
        with pytest.raises(LoopConflictError):
            other.run(pubsub.subscribe("more"))
        owner.run(client.publish("channel", "hello"))
        seen = [owner.run(pubsub.get_message(timeout=30))["type"] for _ in range(2)]
        assert seen == ["subscribe", "message"]
        owner.run(pubsub.aclose())
    assert sessions.become(0)


def test_where_they_go(places: dict[str, str]) -> None:
    kept = [redis_from_url(places[kind], name=kind) for kind in ("rediss", "unix")]
    database = {pool: database for pool, _, database in STATS.gauges()["pool_info"]}
    assert database["rediss"] == places["rediss"].partition("?")[0].removeprefix("rediss://")
    assert database["unix"] == places["unix"].removeprefix("unix://").replace("?db=", "/")
    assert len(kept) == 2


# ---------------------------------------------------------------- a cluster
@pytest.fixture(scope="module")
def cluster_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_process(tmp_path_factory.mktemp("cluster") / "data", "cluster-enabled yes") as server:
        admin: Any = server.client
        admin.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
        wait_until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "a cluster")
        yield server.port


@pytest.fixture
def cluster(cluster_port: int) -> PerLoop[Any]:
    return PerLoop(
        lambda: RedisCluster(host="127.0.0.1", port=cluster_port, client_name="app"),
        dispose=RedisCluster.aclose,
        name="cluster",
    )


@pytest.fixture
def cluster_sessions(cluster_port: int) -> Iterator[Sessions]:
    found = Sessions(f"redis://127.0.0.1:{cluster_port}")
    yield found
    found.close()


async def use(cluster: PerLoop[Any]) -> None:
    client = await cluster.aget()
    await asyncio.gather(*(client.incr(f"counter{number}") for number in range(3)))
    assert await client.pipeline().set("key", "value").get("key").execute() == [True, b"value"]


@pytest.mark.parametrize("run", RUNNERS)
def test_a_cluster_on_a_hundred_loops(
    run: Callable[..., None], cluster: PerLoop[Any], cluster_sessions: Sessions
) -> None:
    for _ in range(100):
        run(use(cluster))
    assert cluster_sessions.become(0)
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("cluster", "loop_end")) == 100


def test_a_cluster_in_threads_at_once(cluster: PerLoop[Any], cluster_sessions: Sessions) -> None:
    threads = [threading.Thread(target=lambda: asyncio.run(use(cluster))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("cluster", "loop_end")) == 8
    assert cluster_sessions.become(0)


def test_a_cluster_at_a_bare_loop_close_is_swept(cluster: PerLoop[Any], cluster_sessions: Sessions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(cluster))
        kept = loop.run_until_complete(cluster.aget())  # from the garbage collector
        loop.close()
        assert cluster_sessions() >= 1
        asyncio.run(use(cluster))
        assert cluster_sessions.become(0)
        del loop, kept
        gc.collect()


@pytest.mark.parametrize("loop_factory", FACTORIES)
def test_a_cluster_after_a_fork(loop_factory: Factory, cluster: PerLoop[Any], cluster_sessions: Sessions) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(use(cluster))
        before = cluster_sessions()
        _in_a_child(lambda: asyncio.run(use(cluster)))
        assert cluster_sessions.become(before)
        runner.run(use(cluster))
    assert cluster_sessions.become(0)
