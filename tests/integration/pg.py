"""What the server says of a test's sessions: the only witness that counts for leaks."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import psycopg


def plain(database_url: str) -> str:
    """The URL as libpq knows it."""
    return database_url.replace("postgresql+asyncpg:", "postgresql:").replace("postgresql+psycopg:", "postgresql:")


def sessions(database_url: str, where: str = "true") -> int:
    """How many client sessions (but our own) this test's database has."""
    with psycopg.connect(plain(database_url), autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() AND "
            f"backend_type = 'client backend' AND {where}",
            [urlsplit(database_url).path.lstrip("/")],
        ).fetchone()
    assert row is not None
    return int(row[0])


def eventually_sessions(database_url: str, expected: int, where: str = "true", deadline: float = 5.0) -> int:
    """The number of sessions once it is the expected one, or what it is after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while (found := sessions(database_url, where)) != expected and time.monotonic() < end:
        time.sleep(0.02)
    return found


def terminate_sessions(database_url: str) -> int:
    """Ends every other session of the database, as a failover would; returns how many."""
    with psycopg.connect(plain(database_url), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
    return len(rows)
