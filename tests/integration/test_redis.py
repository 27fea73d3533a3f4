"""The Redis adapter on a real Redis: one global client on many loops, in threads, after forks, and at every end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
import uvloop
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError

import loopwatch
from loopwatch import LoopConflictError, RedisConnectionPool, redis_from_url
from loopwatch.adapters.redis_connection import guarded
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.integration.redis_sessions import Client, Sessions, everything

RUNNERS = [asyncio.run, uvloop.run]


@pytest.fixture(autouse=True)
def _numbers() -> Iterator[None]:
    STATS.reset()
    yield
    STATS.reset()


@pytest.fixture
def sessions(redis_url: str) -> Iterator[Sessions]:
    found = Sessions(redis_url)
    yield found
    found.close()


@pytest.fixture
def client(redis_url: str) -> Client:
    return redis_from_url(redis_url, client_name="app", decode_responses=True)


@pytest.mark.parametrize("run", RUNNERS)
def test_one_global_client_on_a_hundred_loops(run: Callable[..., None], client: Client, sessions: Sessions) -> None:
    for _ in range(100):
        run(everything(client))
    assert sessions.become(0)
    pool = client.connection_pool.name
    assert STATS.value(catalogue.ENGINES_CREATED, (pool,)) == 100
    assert STATS.value(catalogue.ENGINES_DISPOSED, (pool, "loop_end")) == 100


def test_the_client_is_a_genuine_one(client: Client) -> None:
    assert type(client) is Redis
    assert isinstance(client.connection_pool, redis.asyncio.ConnectionPool)
    encoder: Any = client.get_encoder()  # type: ignore[no-untyped-call]
    assert encoder.decode_responses


def test_a_subclass_of_a_client_on_a_pool_of_ours(redis_url: str, sessions: Sessions) -> None:
    class MyRedis(Redis):
        pass

    client = MyRedis(connection_pool=RedisConnectionPool.from_url(redis_url, client_name="app", decode_responses=True))
    for _ in range(3):
        asyncio.run(everything(client))
    assert sessions.become(0)


def test_loops_in_threads_at_once(client: Client, sessions: Sessions) -> None:
    failures: list[BaseException] = []

    threads = [threading.Thread(target=lambda: asyncio.run(_commands(client, failures))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sessions.become(0)


async def _commands(client: Client, failures: list[BaseException]) -> None:
    try:
        for _ in range(50):
            await client.incr("counter")
    except Exception as error:
        failures.append(error)
        raise


def test_connections_are_reused_on_one_loop(client: Client, sessions: Sessions) -> None:
    with asyncio.Runner() as runner:
        for _ in range(20):
            runner.run(client.incr("counter"))
        assert sessions() == 1
    assert sessions.become(0)


def test_aclose_closes_this_loop_s_connections_only(client: Client, sessions: Sessions) -> None:
    with asyncio.Runner() as kept, asyncio.Runner() as closed:
        kept.run(client.ping())
        closed.run(client.ping())
        assert sessions() == 2
        closed.run(client.aclose())
        assert sessions.become(1)
        kept.run(client.ping())
        closed.run(client.ping())  # as with redis-py: a command after aclose connects again
        closed.run(client.connection_pool.disconnect())
        assert sessions.become(1)
    assert sessions.become(0)


def test_a_bare_loop_close_is_swept(client: Client, sessions: Sessions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # redis-py and asyncio rightly warn of what is left open
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.ping())
        loop.close()
        assert sessions() == 1
        asyncio.run(client.ping())
        assert sessions.become(0)
        del loop
        gc.collect()
    assert STATS.value(catalogue.ENGINES_DISPOSED, (client.connection_pool.name, "loop_closed")) == 1


def test_an_async_generator_that_still_uses_the_client_while_the_loop_ends(client: Client, sessions: Sessions) -> None:
    async def cleaning() -> AsyncIterator[None]:
        try:
            yield
        finally:
            for _ in range(10):
                await client.incr("cleaned")

    async def leave_it_open() -> None:
        first, second = cleaning(), cleaning()
        kept.extend([first, second])
        await anext(first)
        await client.ping()
        await anext(second)

    kept: list[AsyncIterator[None]] = []
    asyncio.run(leave_it_open())
    assert sessions.become(0)
    assert asyncio.run(client.get("cleaned")) == "20"


def test_a_use_after_the_loop_has_closed_its_connections_leaves_none(client: Client, sessions: Sessions) -> None:
    async def late() -> AsyncIterator[None]:
        pools = client.connection_pool._pools
        before = pools.get()
        try:
            yield
        finally:
            while pools.peek() is before:  # noqa: ASYNC110  # the loop's end tells nobody
                await asyncio.sleep(0.01)
            await client.incr("late")

    async def leave_it_open() -> None:
        await client.ping()
        kept.append(late())
        await anext(kept[0])

    kept: list[AsyncIterator[None]] = []
    asyncio.run(leave_it_open())
    assert sessions.become(0)  # by itself: no other loop has swept yet
    assert asyncio.run(client.get("late")) == "1"


def test_a_connection_in_use_goes_back_to_the_pool_that_lent_it(client: Client, sessions: Sessions) -> None:
    """A task closes the client while another one waits for an answer, which redis-py then asks for once more."""

    async def close_meanwhile() -> None:
        waiting = asyncio.create_task(client.blpop(["list"], timeout=0))
        while not sessions():  # noqa: ASYNC110  # the server knows, and tells nobody
            await asyncio.sleep(0.01)
        await client.aclose()
        await client.rpush("list", "item")
        with suppress(RedisConnectionError):  # before redis-py 6 nothing was retried
            await waiting

    asyncio.run(close_meanwhile())
    assert sessions.become(0)


@pytest.mark.parametrize("connection_class", ["Connection", "SSLConnection", "UnixDomainSocketConnection"])
def test_every_class_of_connections_can_be_guarded(connection_class: str) -> None:
    plain = getattr(redis.asyncio, connection_class)

    async def make() -> Any:
        return guarded(plain)()

    made = asyncio.run(make())
    assert isinstance(made, plain)
    assert type(made).__name__ == connection_class
    assert guarded(plain) is type(made)


def test_a_pubsub_of_another_loop_is_refused(client: Client, sessions: Sessions) -> None:
    with asyncio.Runner() as owner, asyncio.Runner() as other:
        pubsub = client.pubsub()
        owner.run(pubsub.subscribe("channel"))
        for use in (lambda: pubsub.subscribe("more"), lambda: pubsub.get_message(timeout=1), pubsub.aclose):
            with pytest.raises(LoopConflictError, match="make it anew on the loop that uses it") as caught:
                other.run(_run(use))
            assert (caught.value.resource, caught.value.kind) == ("redis", "cross_loop")
        owner.run(client.publish("channel", "hello"))
        seen = [owner.run(pubsub.get_message(timeout=30)) for _ in range(2)]
        assert [message["type"] for message in seen if message] == ["subscribe", "message"]
        owner.run(pubsub.aclose())
    assert STATS.value(catalogue.LOOP_CONFLICTS, ("", "", "redis", "cross_loop", "guard")) == 3
    assert sessions.become(0)


def test_a_pubsub_whose_loop_runs_in_another_thread_is_refused(client: Client) -> None:
    """Used all the same it could crash the process."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    pubsub = client.pubsub()

    def there(use: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(use, loop).result(60)

    there(pubsub.subscribe("channel"))
    assert there(pubsub.get_message(timeout=30))["type"] == "subscribe"
    reading = asyncio.run_coroutine_threadsafe(pubsub.get_message(timeout=60), loop)
    for _ in range(40):
        with pytest.raises(LoopConflictError):
            asyncio.run(pubsub.get_message(timeout=1))
    there(client.publish("channel", "hello"))
    assert reading.result(60)["data"] == "hello"
    there(pubsub.aclose())
    there(client.aclose())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_pubsub_of_a_closed_loop_is_refused(client: Client) -> None:
    pubsub = client.pubsub()
    asyncio.run(pubsub.subscribe("channel"))
    with pytest.raises(LoopConflictError) as caught:
        asyncio.run(_run(lambda: pubsub.get_message(timeout=1)))
    assert caught.value.kind == "closed_loop"
    # Nothing of it is left in the pool of the loop that was refused.
    asyncio.run(client.ping())


async def _run(make: Callable[[], Any]) -> Any:
    return await make()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_fork_harms_neither_side(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], client: Client, sessions: Sessions
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(everything(client))
        before = sessions()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(everything(client))
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert sessions.become(before)
        runner.run(everything(client))
    assert sessions.become(0)


def test_max_connections_are_each_loop_s(redis_url: str) -> None:
    client: Client = redis_from_url(redis_url, max_connections=1)

    async def two() -> None:
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("channel")
            await client.ping()

    with asyncio.Runner() as other:
        other.run(client.ping())
        asyncio.run(client.ping())
        with pytest.raises(RedisConnectionError, match="Too many connections"):
            asyncio.run(two())


def test_a_blocking_pool_on_each_loop(redis_url: str, sessions: Sessions) -> None:
    pool = RedisConnectionPool.from_url(
        redis_url, pool_class=BlockingConnectionPool, max_connections=1, timeout=60, client_name="app"
    )
    client: Client = Redis(connection_pool=pool)

    async def many() -> int:
        await asyncio.gather(*(client.incr("counter") for _ in range(20)))
        return sessions()

    assert [asyncio.run(many()) for _ in range(3)] == [1, 1, 1]
    assert sessions.become(0)


def test_connection_options_keep_their_meaning_while_the_pool_lives(client: Client, sessions: Sessions) -> None:
    async def names() -> list[str]:
        async with client.client() as one, client.client() as two:
            return [str(await one.client_getname()), str(await two.client_getname())]

    with asyncio.Runner() as runner:
        runner.run(client.ping())
        client.connection_pool.connection_kwargs["client_name"] = "renamed"
        # One connection was open before, the other is a new one.
        assert sorted(runner.run(names())) == ["app", "renamed"]
    assert asyncio.run(names()) == ["renamed", "renamed"]


def test_retry_is_set_on_every_loop(client: Client) -> None:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    retry = Retry(NoBackoff(), 7)

    async def used() -> Any:
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("channel")
            return pubsub.connection.retry

    with asyncio.Runner() as runner:
        runner.run(client.ping())
        client.set_retry(retry)
        assert runner.run(used()) is retry


def test_gauges(redis_url: str) -> None:
    client: Client = redis_from_url(redis_url, max_connections=30)
    pool = client.connection_pool.name
    place = redis_url.removeprefix("redis://").rpartition("@")[2]

    async def with_one_in_use() -> dict[str, Any]:
        await asyncio.gather(client.ping(), client.ping())
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("channel")
            return STATS.gauges()

    table = asyncio.run(with_one_in_use())
    assert table["pool_connections"][(pool, "used")] == 1
    assert table["pool_connections"][(pool, "idle")] >= 1
    assert table["pool_connections_max"][(pool,)] == 30
    assert table["pool_info"][(pool, "redis", place)] == 1


def test_no_credentials_in_labels() -> None:
    client: Client = redis_from_url("redis://someone:secret@example.invalid:7000/2", name="queue")
    assert "secret" not in repr(STATS.gauges())
    assert (("queue", "redis", "example.invalid:7000/2") in STATS.gauges()["pool_info"]) is True
    assert client.connection_pool.name == "queue"


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"single_connection_client": True}, r"ties a client to one event loop: leave it out"),
    ({"pool_class": RedisConnectionPool}, "pool_class is the kind of pool that each loop has"),
    ({"pool_class": redis.ConnectionPool}, "pool_class must be a class of redis.asyncio"),
    ({"pool_class": redis.BlockingConnectionPool}, "pool_class must be a class of redis.asyncio"),
    ({"pool_class": Redis}, "pool_class must be a class of redis.asyncio"),
    ({"pool_class": "blocking"}, "pool_class"),
    ({"connection_class": redis.Connection}, "connection_class must be a class of redis.asyncio"),
    ({"max_connections": 0}, "max_connections must be at least 1"),
    ({"max_connections": -1}, "max_connections must be at least 1"),
    ({"max_connections": 2.5}, "max_connections must be at least 1"),
    ({"socket_timeuot": 5}, "Connection refuses an option: .* 'socket_timeuot'"),
    ({"timeout": 5}, "refuses an option: .* 'timeout'"),  # a blocking pool has it
    ({"leak_threshold": -1}, "leak_threshold"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(loopwatch.ConfigurationError, match=message) as caught:
        redis_from_url("redis://someone:secret@localhost", **options)
    assert "secret" not in str(caught.value)


def test_a_bad_url_is_refused_without_its_password() -> None:
    for url in ("localhost:6379", "reddis://someone:secret@localhost"):
        with pytest.raises(ValueError, match="scheme") as caught:
            redis_from_url(url)
        assert "secret" not in str(caught.value)


def test_repr_has_no_credentials() -> None:
    client = redis_from_url("redis://someone:secret@localhost:6379/2", name="queue")
    assert "<RedisConnectionPool 'queue' localhost:6379/2 loops=0>" in repr(client)
    assert "secret" not in repr(client)


def test_a_call_without_a_loop_says_what_to_write(client: Client) -> None:
    with pytest.raises(RuntimeError, match=r"use it inside a coroutine, for example through loopwatch.run_async"):
        client.connection_pool.get_available_connection()
