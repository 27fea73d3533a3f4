"""What tests do with a Redis client, and what the server says of their sessions: the witness that counts for leaks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis

__all__ = ["Client", "Sessions", "everything"]

Client = Any
"""A `Redis`: redis-py types its commands as `Awaitable`, which `asyncio.run` does not take."""


class Sessions:
    """The sessions that clients named ``app`` have on the server."""

    def __init__(self, url: str, **options: Any) -> None:
        self._admin = redis.Redis.from_url(url, **options)

    def __call__(self) -> int:
        return len(self._clients())

    def _clients(self) -> list[dict[str, str]]:
        return [client for client in self._admin.client_list() if client["name"] == "app"]

    def become(self, number: int, seconds: float = 60) -> bool:
        """Waits until there are so many; the server notices a closed socket a little later."""
        deadline = time.monotonic() + seconds
        while self() != number and time.monotonic() < deadline:
            time.sleep(0.01)
        return self() == number

    def kill(self) -> None:
        """Ends them, as a failover would."""
        for client in self._clients():
            self._admin.client_kill_filter(_id=client["id"])

    def close(self) -> None:
        self._admin.close()


async def everything(client: Client) -> None:
    """Whatever a client asks of a pool: commands, a pipeline, a lock, a blocking command, a script, pub/sub."""
    await asyncio.gather(*(client.incr("counter") for _ in range(5)))
    async with client.pipeline(transaction=True) as pipeline:
        assert await pipeline.set("key", "value").get("key").execute() == [True, "value"]
    async with client.lock("lock", timeout=30):
        assert await client.exists("lock")
    async with asyncio.TaskGroup() as tasks:
        popped = tasks.create_task(client.blpop(["list"], timeout=30))
        tasks.create_task(client.rpush("list", "item"))
    assert list(popped.result()) == ["list", "item"]
    assert await client.register_script("return ARGV[1]")(args=["x"]) == "x"
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("channel")
        await client.publish("channel", "hello")
        async for message in pubsub.listen():
            if message["type"] == "message":
                assert message["data"] == "hello"
                return
