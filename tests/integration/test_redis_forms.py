"""What redis-py offers beyond single commands, on one global client and two kinds of loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop
from redis.asyncio import BlockingConnectionPool, Redis, WatchError

from loopwatch import RedisConnectionPool, redis_from_url
from tests.integration.redis_sessions import Client, Sessions, everything

RUNNERS = [asyncio.run, uvloop.run]
Run = Callable[..., Any]


@pytest.fixture
def sessions(redis_url: str) -> Iterator[Sessions]:
    found = Sessions(redis_url)
    yield found
    found.close()


def test_a_thousand_loops_leave_no_session_and_no_descriptor(redis_url: str, sessions: Sessions) -> None:
    client: Client = redis_from_url(redis_url, client_name="app")
    asyncio.run(_ping(client))
    assert sessions.become(0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1000):
        asyncio.run(_ping(client))
    assert sessions.become(0)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert len(client.connection_pool._pools) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"protocol": 2},
        {"protocol": 3},
        {"health_check_interval": 1},
        {"socket_timeout": 60, "socket_connect_timeout": 60, "socket_keepalive": True},
        {"pool_class": BlockingConnectionPool, "max_connections": 10, "timeout": 60},
        {"retry_on_timeout": True, "encoding": "latin-1"},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("run", RUNNERS)
def test_options_of_the_connections(run: Run, options: dict[str, Any], redis_url: str, sessions: Sessions) -> None:
    client = redis_from_url(redis_url, client_name="app", decode_responses=True, **options)
    for _ in range(3):
        run(everything(client))
    assert sessions.become(0)


def test_options_of_the_url_s_query(redis_url: str, sessions: Sessions) -> None:
    query = "client_name=app&decode_responses=yes&max_connections=3"
    client: Client = redis_from_url(f"{redis_url}?{query}")

    async def greet() -> Any:
        await client.set("key", "value")
        return await client.get("key")

    assert asyncio.run(greet()) == "value"
    assert client.connection_pool.max_connections == 3
    assert sessions.become(0)


@pytest.mark.parametrize("decode", [False, True])
def test_answers_are_decoded_on_request_only(decode: bool, redis_url: str) -> None:
    client: Client = redis_from_url(redis_url, decode_responses=decode)
    asyncio.run(client.set("key", "value"))
    assert asyncio.run(client.get("key")) == ("value" if decode else b"value")


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("run", RUNNERS)
def test_every_form_of_pubsub(run: Run, protocol: int, redis_url: str, sessions: Sessions) -> None:
    client: Client = redis_from_url(redis_url, client_name="app", decode_responses=True, protocol=protocol)
    for _ in range(3):
        run(_pubsub(client))
    assert sessions.become(0)


async def _pubsub(client: Client) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    @asynccontextmanager
    async def running(pubsub: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(pubsub.run(poll_timeout=0.01))
        yield
        task.cancel()
        await asyncio.wait([task])

    async with client.pubsub(ignore_subscribe_messages=True) as pubsub, asyncio.timeout(60):
        await pubsub.subscribe(plain=lambda message: heard.put_nowait(message["data"]))
        await pubsub.psubscribe(**{"pattern.*": lambda message: heard.put_nowait(message["data"])})
        async with running(pubsub):
            await client.publish("plain", "one")
            assert await heard.get() == "one"
            await client.publish("pattern.x", "two")
            assert await heard.get() == "two"
        await pubsub.unsubscribe("plain")
        await pubsub.punsubscribe()
    async with client.pubsub() as pubsub, asyncio.timeout(60):
        await pubsub.execute_command("SSUBSCRIBE", "shard")
        await client.execute_command("SPUBLISH", "shard", "three")
        kinds = []
        while "smessage" not in kinds:
            message = await pubsub.get_message(timeout=1)
            kinds += [message["type"]] if message else []


@pytest.mark.parametrize("run", RUNNERS)
def test_transactions(run: Run, redis_url: str, sessions: Sessions) -> None:
    client: Client = redis_from_url(redis_url, client_name="app")

    async def compete() -> None:
        async with client.pipeline() as pipeline:
            await pipeline.watch("counter")
            await client.incr("counter")
            pipeline.multi()
            pipeline.incr("counter")
            with pytest.raises(WatchError):
                await pipeline.execute()

        async def add(pipeline: Any) -> None:
            value = int(await pipeline.get("counter") or 0)
            pipeline.multi()
            pipeline.set("counter", value + 1)

        await client.transaction(add, "counter")

    for number in range(3):
        run(compete())
        assert int(run(_get(client, "counter"))) == 2 * (number + 1)
    assert sessions.become(0)


async def _get(client: Client, key: str) -> Any:
    return await client.get(key)


def test_who_owns_the_pool_closes_it(redis_url: str, sessions: Sessions) -> None:
    pool = RedisConnectionPool.from_url(redis_url, client_name="app")
    sharing, owning = Redis(connection_pool=pool), Redis.from_pool(pool)
    made: Client = redis_from_url(redis_url, client_name="app")
    with asyncio.Runner() as runner:
        runner.run(_ping(sharing))
        runner.run(sharing.aclose())
        assert sessions() == 1  # the pool is somebody else's
        runner.run(owning.aclose())
        assert sessions.become(0)
        runner.run(_ping(made))
        runner.run(made.aclose())
        assert sessions.become(0)

        async def in_a_block() -> None:
            async with redis_from_url(redis_url, client_name="app") as client:
                await _ping(client)

        runner.run(in_a_block())
        assert sessions.become(0)


async def _ping(client: Client) -> None:
    await client.ping()


def test_a_subclass_of_the_connections(redis_url: str, sessions: Sessions) -> None:
    class Counted(redis.asyncio.Connection):
        made = 0

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            asyncio.get_running_loop()  # works on a loop only
            Counted.made += 1

    pool = RedisConnectionPool.from_url(redis_url, connection_class=Counted, client_name="app")
    client: Client = Redis(connection_pool=pool)
    for _ in range(3):
        asyncio.run(_ping(client))
    assert Counted.made == 3
    assert sessions.become(0)
