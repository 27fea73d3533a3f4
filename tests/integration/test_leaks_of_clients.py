"""`assert_no_leaks` beyond SQLAlchemy: what a client of Redis leaves behind, and a conflict of a real client's."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest
from redis.asyncio import Redis

import loopwatch
from loopwatch.testing import LeakError, assert_no_leaks


async def test_a_redis_connection_left_in_use_is_named(redis_url: str) -> None:
    redis = loopwatch.redis_from_url(redis_url, name="events")
    with assert_no_leaks():
        async with redis.pubsub() as subscription:
            await subscription.subscribe("topics")
        await redis.ping()
    subscription = redis.pubsub()
    with pytest.raises(LeakError, match="1 connection of 'events' still checked out"), assert_no_leaks():
        await subscription.subscribe("topics")
    await subscription.aclose()  # type: ignore[no-untyped-call]
    await redis.aclose()


def test_a_conflict_that_was_caught_and_counted_is_told(redis_url: str) -> None:
    clients = [Redis.from_url(redis_url)]  # in the usual way: its connection is the first loop's

    async def ping() -> None:
        async with loopwatch.tolerated("ping", on_failure=lambda failure: None):  # a log record would keep the error
            await clients[0].ping()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(ping())
        with pytest.raises(LeakError, match="1 loop conflict: redis, closed_loop"), assert_no_leaks():
            asyncio.run(ping())
        clients.clear()
        gc.collect()  # now, while the socket that is left may be warned of
