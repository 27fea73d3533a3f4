"""Users, and what goes wrong in production, made to happen and ended again: each a context manager."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import aiohttp
import psycopg
import redis

from app.demo.traffic import Traffic

__all__ = ["locked_logs", "refused_notifications", "users"]

USERS = 4


@contextmanager
def users(api: str) -> Iterator[None]:
    """The demo's users, who ask the API for roadmaps and review them, each one after the other, in a thread."""
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread:
        loop = runner.get_loop()
        work = loop.create_task(_users(api))
        ended = thread.submit(runner.run, _until_cancelled(work))
        try:
            yield
        finally:
            loop.call_soon_threadsafe(work.cancel)
            ended.result()


async def _users(api: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        await Traffic(session, api).run(users=USERS)


async def _until_cancelled(work: asyncio.Task[None]) -> None:
    with suppress(asyncio.CancelledError):
        await work


@contextmanager
def locked_logs(database_url: str) -> Iterator[None]:
    """Somebody's transaction keeps the table of the execution logs to itself.

    Each task that writes there holds its connection and waits: a pool of one connection is used up.
    """
    with psycopg.connect(database_url.replace("+asyncpg", "")) as connection:
        connection.execute("LOCK TABLE execution_logs IN EXCLUSIVE MODE")
        yield


@contextmanager
def refused_notifications(redis_url: str) -> Iterator[None]:
    """Redis forbids the channels of the notifications (``app:task:...``), not those of Celery."""
    with redis.Redis.from_url(redis_url) as client:
        name = client.acl_whoami()
        client.execute_command("ACL", "SETUSER", name, "resetchannels", *_celerys_channels())
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", name, "allchannels")


def _celerys_channels() -> list[str]:
    """Those of events, remote control and results; a pattern that is subscribed to must be allowed literally."""
    return ["&/*", "&/0.celeryev/*", "&/0.celeryev/worker.*", "&/0.celery.pidbox", "&celery-task-meta-*"]
