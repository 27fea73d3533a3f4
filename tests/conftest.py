"""Real servers for the tests: one PostgreSQL, MariaDB, Redis and RabbitMQ a test process, a fresh database a test.

A server that is missing skips the tests that need it on a laptop and fails them in CI (``CI`` is set).
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import settings

from app.demo.servers import Server, ServerMissingError, start_postgres, start_redis
from tests.mariadb import start_mariadb
from tests.rabbitmq import VHOSTS, RabbitMQ, start_rabbitmq

pytest_plugins = ["tests.promtool"]

# Everywhere as in CI: the same examples each time, however slow a loaded machine is at them. To look for new ones, add
# --hypothesis-profile default to pytest's options.
settings.load_profile("ci")

_database_numbers = count(1)
_redis_numbers = count(1)
_vhosts = iter(range(VHOSTS))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports every test while the garbage collector rests, and keeps it from what they are made of for good: to look
    at that again and again is a quarter of the time that it takes, and more of the tests'."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class _Closable(Protocol):
    def close(self) -> None: ...


S = TypeVar("S", bound=_Closable)


@contextmanager
def _running(start: Callable[[Path], S]) -> Iterator[S]:
    # Not pytest's tmp_path: it is closed to other users, and PostgreSQL runs as one when we are root.
    with tempfile.TemporaryDirectory(prefix="loopwatch-test-") as directory:
        try:
            server = start(Path(directory))
        except ServerMissingError as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))
        try:
            yield server
        finally:
            server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL with 200 connections; ``url`` is that of its superuser and its database ``postgres``."""
    with _running(lambda directory: start_postgres(directory, max_connections=200)) as server:
        yield server


@pytest.fixture
def database_url(postgres_server: Server) -> Iterator[str]:
    """A fresh, empty database, as SQLAlchemy names it: ``postgresql+asyncpg://...``. Dropped after the test."""
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgres_server.url.replace("postgresql:", "postgresql+asyncpg:").removesuffix("postgres") + name
        # FORCE alone waits five seconds for the end of what it ends.
        connection.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A MariaDB with 200 connections; tests want `mariadb_url`."""
    with _running(start_mariadb) as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb_server: Server) -> Iterator[str]:
    """A fresh, empty database: ``mysql://...``, to which the test adds its driver. Dropped after the test."""
    name = f"test_{next(_database_numbers)}"
    server = urlsplit(mariadb_server.url)
    with pymysql.connect(
        host=server.hostname, port=server.port, user=server.username, password=server.password, autocommit=True
    ) as connection:
        connection.cursor().execute(f"CREATE DATABASE {name}")
        yield mariadb_server.url + name
        connection.cursor().execute(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A Redis; tests want `redis_url`."""
    with _running(lambda directory: start_redis(directory, databases=2_000)) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """A Redis of this test's own, to be stopped (SIGSTOP) and killed."""
    with _running(start_redis) as server:
        yield server
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """An empty Redis database, whose number nobody has used: ``redis://...``."""
    return redis_server.url.removesuffix("/0") + f"/{next(_redis_numbers)}"


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQ]:
    """A RabbitMQ, which must live on; tests want `rabbitmq_url`."""
    with _running(start_rabbitmq) as server:
        yield server


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ of this module's own, to be stopped (SIGSTOP), killed and started again."""
    with _running(start_rabbitmq) as server:
        yield server


@pytest.fixture
def rabbitmq_url(rabbitmq_server: RabbitMQ) -> str:
    """A virtual host that nobody has used: ``amqp://...``."""
    return rabbitmq_server.url(f"t{next(_vhosts)}")
