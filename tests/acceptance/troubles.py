"""Users, and what goes wrong in production, made to happen and ended again: each a context manager."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import aiohttp
import psycopg
import redis

from app.demo.traffic import Traffic

__all__ = ["locked_logs", "refused_notifications", "slow_roadmaps", "users"]

USERS = 4
SLOW = 0.6
"""Seconds that reading a roadmap takes where it is slow: above what a task may wait for a connection."""


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
def slow_roadmaps(database_url: str) -> Iterator[None]:
    """Somebody's transactions keep the table of the roadmaps to themselves, one after the other.

    Each user who looks at a roadmap holds the API's connection for so long; with a pool of one the others wait for it.
    """
    stop = threading.Event()
    with psycopg.connect(database_url, autocommit=True) as connection, ThreadPoolExecutor(1) as thread:
        slow = thread.submit(_lock_again_and_again, connection, stop)
        try:
            yield
        finally:
            stop.set()
            slow.result()


def _lock_again_and_again(connection: psycopg.Connection, stop: threading.Event) -> None:
    # A sick worker may leave a transaction open for ever. Who waits behind our wait for the lock is slowed as well.
    connection.execute(f"SET lock_timeout = '{SLOW}s'")
    while not stop.is_set():
        with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
            connection.execute("LOCK TABLE roadmaps IN ACCESS EXCLUSIVE MODE")
            stop.wait(SLOW)


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
