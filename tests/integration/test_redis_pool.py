"""The figures of Redis pools, on a real Redis: the same as those of the SQLAlchemy pools."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

import loopwatch
from loopwatch import redis_from_url
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.integration.redis_sessions import Sessions

Client = Any
TASK = TaskContext("content", "app.generate", "1")


@pytest.fixture(autouse=True)
def _numbers() -> Iterator[None]:
    gc.collect()  # pools of earlier tests that nobody has any more
    STATS.reset()
    token = current_task.set(TASK)
    yield
    current_task.reset(token)
    STATS.reset()


@pytest.fixture
def sessions(redis_url: str) -> Iterator[Sessions]:
    found = Sessions(redis_url)
    yield found
    found.close()


def make(url: str, pool: str = "cache", **options: Any) -> Client:
    return redis_from_url(url, name=pool, client_name="app", **options)


def value(metric: catalogue.Metric, *labels: str) -> float:
    return STATS.value(metric, labels)


def seconds(metric: catalogue.Metric, *labels: str) -> float:
    """The sum of a histogram."""
    rows = STATS.counters()[metric.wire_name][labels]
    assert isinstance(rows, list)
    return rows[-1]


def gauge(metric: catalogue.Metric, *labels: str) -> Any:
    return STATS.gauges().get(metric.wire_name, {}).get(labels)


async def until(condition: Any, deadline: float = 60) -> None:
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110  # gauges are read, they tell nobody
            await asyncio.sleep(0.01)


def test_every_way_to_a_connection_is_counted_and_ends(redis_url: str) -> None:
    client = make(redis_url, decode_responses=True)

    async def everything() -> None:
        await client.set("key", "value")  # 1
        async with client.pipeline(transaction=True) as pipeline:  # 2
            await pipeline.watch("key")
            pipeline.multi()
            await pipeline.get("key").execute()
        async with client.pipeline(transaction=False) as pipeline:  # 3
            await pipeline.get("key").get("key").execute()
        async with client.client() as one:  # 4
            await one.ping()
            await one.ping()
        async with client.pubsub() as pubsub:  # 5
            await pubsub.subscribe("channel")
        await client.blpop(["nothing"], timeout=0.01)  # 6
        async for _ in client.scan_iter():  # 7
            pass
        async with client.monitor():  # 8
            pass

    asyncio.run(everything())
    assert value(catalogue.POOL_WAIT, "content", "cache") == 8
    assert value(catalogue.POOL_USE, "content", "cache") == 8
    assert value(catalogue.TASK_POOL_USES, "content", "app.generate", "cache") == 8
    # The first, and what a pubsub and a monitor closed behind them; no more than were taken, at least one.
    assert 1 <= value(catalogue.POOL_CREATE, "cache") <= 3
    assert value(catalogue.POOL_TIMEOUTS, "content", "cache") == 0


def test_wait_and_use_are_times(redis_url: str) -> None:
    client = make(redis_url, pool_class=BlockingConnectionPool, max_connections=1, timeout=30)

    async def two() -> None:
        holder = asyncio.create_task(client.blpop(["list"], timeout=30))
        await until(lambda: gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 1)
        waiter = asyncio.create_task(client.ping())
        await until(lambda: gauge(catalogue.POOL_PENDING_REQUESTS, "cache") == 1)
        await asyncio.sleep(0.3)  # what is measured
        await make(redis_url, "other").rpush("list", "item")
        await asyncio.gather(holder, waiter)

    asyncio.run(two())
    for metric in (catalogue.POOL_WAIT, catalogue.POOL_USE):
        assert value(metric, "content", "cache") == 2
        assert seconds(metric, "content", "cache") >= 0.3
    assert value(catalogue.POOL_CREATE, "cache") == 1
    waited = STATS.counters()[catalogue.TASK_POOL_WAIT.wire_name]["content", "app.generate", "cache"]
    assert not isinstance(waited, list)
    assert waited >= 0.3


def test_waits_that_time_out(redis_url: str) -> None:
    plain = make(redis_url, "plain", max_connections=1)
    blocking = make(redis_url, "blocking", pool_class=BlockingConnectionPool, max_connections=1, timeout=0.05)

    async def beyond_the_limit(client: Client) -> None:
        async with client.client() as one:
            await one.ping()
            for _ in range(2):
                with pytest.raises(RedisConnectionError):
                    await client.ping()
        await client.ping()

    for client, pool in ((plain, "plain"), (blocking, "blocking")):
        asyncio.run(beyond_the_limit(client))
        # redis-py tries again of its own accord, and each try is a wait.
        assert value(catalogue.POOL_TIMEOUTS, "content", pool) >= 2
        waits = value(catalogue.POOL_WAIT, "content", pool)
        assert waits == value(catalogue.POOL_TIMEOUTS, "content", pool) + 2
        assert value(catalogue.POOL_USE, "content", pool) == 2


def test_a_server_that_is_away_is_no_timeout_of_the_pool() -> None:
    client = make("redis://127.0.0.1:1/0", retry=None)

    async def ask() -> None:
        with pytest.raises(RedisConnectionError, match="Error"):
            await client.ping()
        assert gauge(catalogue.POOL_PENDING_REQUESTS, "cache") == 0
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 0

    asyncio.run(ask())
    assert value(catalogue.POOL_TIMEOUTS, "content", "cache") == 0
    assert value(catalogue.POOL_CREATE, "cache") == 0


def test_gauges_while_one_holds_and_two_wait(redis_url: str) -> None:
    client = make(redis_url, pool_class=BlockingConnectionPool, max_connections=1, timeout=30)

    async def crowd() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.blpop(["list"], timeout=30))
            await until(lambda: gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 1)
            for _ in range(2):
                tasks.create_task(client.ping())
            await until(lambda: gauge(catalogue.POOL_PENDING_REQUESTS, "cache") == 2)
            assert gauge(catalogue.POOL_CONNECTIONS, "cache", "idle") == 0
            assert gauge(catalogue.POOL_CONNECTIONS_MAX, "cache") == 1
            assert gauge(catalogue.POOL_CHECKED_OUT, "content", "cache") == 1
            assert gauge(catalogue.POOL_OLDEST_CHECKOUT, "cache") > 0
            tasks.create_task(make(redis_url, "other").rpush("list", "item"))
        assert gauge(catalogue.POOL_PENDING_REQUESTS, "cache") == 0
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 0
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "idle") == 1
        assert gauge(catalogue.POOL_OLDEST_CHECKOUT, "cache") == 0
        assert gauge(catalogue.POOL_CONNECTIONS_PEAK, "cache") == 1

    asyncio.run(crowd())


def test_gauges_of_several_loops_are_one(redis_url: str) -> None:
    client = make(redis_url, max_connections=7)
    assert gauge(catalogue.POOL_CONNECTIONS_MAX, "cache") == 7
    with asyncio.Runner() as first, asyncio.Runner() as second:
        for runner in (first, second):
            runner.run(client.ping())
        assert gauge(catalogue.POOL_CONNECTIONS_MAX, "cache") == 14
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "idle") == 2
        assert gauge(catalogue.ENGINES, "cache") == 2
    assert gauge(catalogue.POOL_CONNECTIONS, "cache", "idle") == 0


def test_a_cancelled_wait_or_command_leaves_nothing_held(redis_url: str) -> None:
    client = make(redis_url, pool_class=BlockingConnectionPool, max_connections=1, timeout=30)

    async def cancel_both() -> None:
        holder = asyncio.create_task(client.blpop(["never"], timeout=30))
        await until(lambda: gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 1)
        waiter = asyncio.create_task(client.ping())
        await until(lambda: gauge(catalogue.POOL_PENDING_REQUESTS, "cache") == 1)
        for task in (waiter, holder):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert gauge(catalogue.POOL_PENDING_REQUESTS, "cache") == 0
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 0
        assert await client.ping()

    asyncio.run(cancel_both())
    assert value(catalogue.POOL_TIMEOUTS, "content", "cache") == 0


def test_a_connection_that_the_server_ended_is_made_anew(redis_url: str, sessions: Sessions) -> None:
    client = make(redis_url, retry=Retry(NoBackoff(), 1), retry_on_error=[RedisConnectionError])
    with asyncio.Runner() as runner:
        runner.run(client.ping())
        sessions.kill()
        assert sessions.become(0)
        runner.run(client.ping())
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "idle") == 1
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 0
    assert value(catalogue.POOL_CREATE, "cache") == 2


def test_what_a_reset_pool_forgot_is_not_held_for_ever(redis_url: str) -> None:
    client = make(redis_url)

    async def forget() -> None:
        pubsub = client.pubsub()
        await pubsub.subscribe("channel")
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 1
        client.connection_pool.reset()
        assert gauge(catalogue.POOL_CONNECTIONS, "cache", "used") == 0
        await pubsub.connection.disconnect()

    asyncio.run(forget())
    assert value(catalogue.POOL_USE, "content", "cache") == 1


# ---------------------------------------------------------------- leaks
def test_a_client_that_is_held_too_long_is_a_leak(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    client = make(redis_url, leak_threshold=0.05)

    async def hold_on() -> None:
        async with client.client() as one:
            await one.ping()
            await asyncio.sleep(0.06)
            for _ in range(3):
                STATS.gauges()

    with caplog.at_level(logging.WARNING, "loopwatch"):
        asyncio.run(hold_on())
    assert value(catalogue.POOL_LEAKS, "content", "cache") == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"of the pool cache has been held for \d+\.\d", message)
    assert "by the task app.generate[1] of the queue content" in message
    assert "in hold_on\n" in message
    assert "site-packages/redis" not in message


@pytest.mark.filterwarnings("ignore:unclosed Connection:ResourceWarning")
def test_a_pubsub_is_a_leak_only_when_it_is_lost(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    client = make(redis_url, leak_threshold=0.05)

    async def subscribe() -> Any:
        pubsub = client.pubsub()
        await pubsub.subscribe("channel")
        await asyncio.sleep(0.06)
        STATS.gauges()
        return pubsub

    async def both() -> None:
        await (await subscribe()).aclose()
        assert value(catalogue.POOL_LEAKS, "content", "cache") == 0
        lost = await subscribe()
        assert value(catalogue.POOL_LEAKS, "content", "cache") == 0
        del lost
        gc.collect()
        STATS.gauges()
        assert value(catalogue.POOL_LEAKS, "content", "cache") == 1

    with caplog.at_level(logging.WARNING, "loopwatch"):
        asyncio.run(both())
    assert len(caplog.records) == 1
    assert "in subscribe\n    await pubsub.subscribe" in caplog.text


def test_without_a_threshold_nobody_looks_and_a_bad_one_is_refused(redis_url: str) -> None:
    asyncio.run(make(redis_url).ping())
    assert catalogue.POOL_LEAKS.wire_name not in STATS.counters()
    with pytest.raises(loopwatch.ConfigurationError, match="leak_threshold"):
        make(redis_url, leak_threshold=0)
