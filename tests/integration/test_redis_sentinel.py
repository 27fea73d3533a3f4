"""Sentinel: a master, its replica and two sentinels, all real; the clients are global and right on every loop."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import uvloop
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

import loopwatch
from loopwatch import RedisSentinelPool
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.integration.redis_servers import RedisProcess, redis_process, sentinel_process, wait_until

Client = Any
RUNNERS = [asyncio.run, uvloop.run]


class Fleet(NamedTuple):
    master: RedisProcess
    replica: RedisProcess
    sentinels: list[RedisProcess]

    def manager(self, **options: Any) -> Sentinel:
        places = [("127.0.0.1", one.port) for one in self.sentinels]
        return Sentinel(  # type: ignore[no-untyped-call]
            places, socket_timeout=60, sentinel_kwargs={"client_name": "app"}, **options
        )

    def client(self, **options: Any) -> Client:
        return self.manager(client_name="app", decode_responses=True).master_for(
            "mymaster", connection_pool_class=RedisSentinelPool, **options
        )

    def sessions(self) -> int:
        servers = (self.master, self.replica, *self.sentinels)
        return sum(client["name"] == "app" for server in servers for client in server.client.client_list())

    def become(self, number: int) -> bool:
        wait_until(lambda: self.sessions() == number, f"{number} sessions")
        return True


def _start(stack: ExitStack, directory: Path) -> Fleet:
    master = stack.enter_context(redis_process(directory / "master"))
    replica = stack.enter_context(redis_process(directory / "replica", f"replicaof 127.0.0.1 {master.port}"))
    wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up", "replication")
    sentinels = [
        stack.enter_context(sentinel_process(directory / f"sentinel{number}", master, quorum=1)) for number in range(2)
    ]

    def known(sentinel: RedisProcess) -> bool:
        state: Any = sentinel.client.sentinel_master("mymaster")
        replicas: Any = sentinel.client.sentinel_slaves("mymaster")
        return bool(state["num-other-sentinels"] == 1 and replicas and not replicas[0]["is_disconnected"])

    for sentinel in sentinels:
        wait_until(lambda sentinel=sentinel: known(sentinel), "the sentinels' knowledge of all")  # type: ignore[misc]
    return Fleet(master, replica, sentinels)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield _start(stack, tmp_path_factory.mktemp("sentinel"))


@pytest.fixture(autouse=True)
def _numbers() -> Iterator[None]:
    gc.collect()
    STATS.reset()
    yield
    STATS.reset()


async def use(client: Client) -> None:
    await asyncio.gather(*(client.incr("counter") for _ in range(3)))
    async with client.pipeline() as pipeline:
        assert await pipeline.set("key", "value").get("key").execute() == [True, "value"]


@pytest.mark.parametrize("run", RUNNERS)
def test_one_global_client_of_the_master_on_a_hundred_loops(run: Callable[..., None], fleet: Fleet) -> None:
    client = fleet.client()
    assert type(client) is Redis
    assert isinstance(client.connection_pool, SentinelConnectionPool)
    for _ in range(100):
        run(use(client))
    assert fleet.become(0)  # at the sentinels, too
    for pool in ("mymaster", "sentinel"):
        assert STATS.value(catalogue.ENGINES_DISPOSED, (pool, "loop_end")) == 100
    assert STATS.value(catalogue.POOL_USE, ("", "mymaster")) == 400
    assert STATS.value(catalogue.POOL_CREATE, ("mymaster",)) >= 100


@pytest.mark.parametrize("run", RUNNERS)
def test_a_client_of_the_replicas(run: Callable[..., Any], fleet: Fleet) -> None:
    client: Client = fleet.manager(client_name="app").slave_for("mymaster", connection_pool_class=RedisSentinelPool)
    for _ in range(3):
        assert run(_first(client.role)) == b"slave"
    assert client.connection_pool.name == "mymaster/replica"
    assert fleet.become(0)


async def _first(command: Callable[[], Any]) -> Any:
    return (await command())[0]


def test_a_subclass_of_the_client_and_options_of_the_pool(fleet: Fleet) -> None:
    class MyRedis(Redis):
        pass

    client: Client = fleet.client(redis_class=MyRedis, db=2, max_connections=1, check_connection=True, name="queue")
    assert type(client) is MyRedis

    async def at_once() -> None:
        async with client.client() as one:
            await one.ping()
            with pytest.raises(redis.ConnectionError, match="Too many connections"):
                await client.ping()

    for _ in range(2):
        asyncio.run(at_once())
    assert STATS.value(catalogue.POOL_TIMEOUTS, ("", "queue")) >= 2
    assert STATS.gauges()["pool_info"]["queue", "redis", "mymaster/2"] == 1
    assert fleet.become(0)


def test_loops_in_threads_at_once(fleet: Fleet) -> None:
    client = fleet.client()
    done: list[bool] = []

    def work() -> None:
        for _ in range(5):
            asyncio.run(use(client))
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8
    assert fleet.become(0)


def test_a_bare_loop_close_is_swept_at_the_master_and_at_the_sentinel(fleet: Fleet) -> None:
    client = fleet.client()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # redis-py and asyncio rightly warn of what is left open
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.ping())
        loop.close()
        assert fleet.sessions() == 2
        asyncio.run(client.ping())
        assert fleet.become(0)
        del loop
        gc.collect()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_fork_harms_neither_side(loop_factory: Callable[[], asyncio.AbstractEventLoop], fleet: Fleet) -> None:
    client = fleet.client()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(use(client))
        before = fleet.sessions()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(use(client))
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert fleet.become(before)
        runner.run(use(client))
    assert fleet.become(0)


def test_a_pubsub_of_another_loop_is_refused(fleet: Fleet) -> None:
    client = fleet.client()
    with asyncio.Runner() as owner, asyncio.Runner() as other:
        pubsub = client.pubsub()
        owner.run(pubsub.subscribe("channel"))
        with pytest.raises(loopwatch.LoopConflictError, match="Redis connection"):
            other.run(pubsub.subscribe("more"))
        owner.run(pubsub.aclose())
    assert fleet.become(0)


def test_a_failover_is_followed_on_every_loop(tmp_path: Path) -> None:
    with ExitStack() as stack, asyncio.Runner() as kept:
        fleet = _start(stack, tmp_path)
        client = fleet.client()
        kept.run(use(client))
        for sentinel in fleet.sentinels:
            sentinel.client.sentinel_set("mymaster", "down-after-milliseconds", 1000)
        fleet.master.kill()
        wait_until(lambda: fleet.replica.client.role()[0] == b"master", "a failover")

        def works(run: Callable[..., Any]) -> bool:
            run(use(client))
            return True

        # Sentinel tells of the new master a little after it has made it one.
        wait_until(lambda: works(kept.run), "a client that follows on the loop that lives on")
        for run in RUNNERS:
            wait_until(lambda run=run: works(run), "a client that follows on a new loop")  # type: ignore[misc]
        address = kept.run(client.connection_pool.get_master_address())
        assert address == ("127.0.0.1", fleet.replica.port)


def test_a_pool_that_is_not_sentinel_s_is_refused(fleet: Fleet) -> None:
    for pool_class in (ConnectionPool, redis.sentinel.SentinelConnectionPool):
        with pytest.raises(loopwatch.ConfigurationError, match="pool_class"):
            fleet.client(pool_class=pool_class)
