"""What the server says of a test's sessions: the only witness that counts for leaks."""

from __future__ import annotations

import time

import psycopg

# The name by which a session of these functions knows its predecessors, which may not be gone yet.
_OBSERVER = "loopwatch-tests-observer"


def plain(database_url: str) -> str:
    """The URL as libpq knows it."""
    return database_url.replace("postgresql+asyncpg:", "postgresql:").replace("postgresql+psycopg:", "postgresql:")


def states(database_url: str, where: str = "true") -> list[str]:
    """The state of each client session of this test's database, our own and those of earlier calls left out.

    Only clients count: once a minute autovacuum looks into each database, and its worker is ``active``. A session that
    its client has closed stays for some milliseconds: after a worker's end, ask until it is gone.
    """
    with psycopg.connect(plain(database_url), autocommit=True, application_name=_OBSERVER) as connection:
        rows = connection.execute(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND application_name <> %s AND "
            f"backend_type = 'client backend' AND {where}",
            [_OBSERVER],
        )
        return [state for (state,) in rows]


def sessions(database_url: str, where: str = "true") -> int:
    """How many client sessions, as `states` tells them, this test's database has."""
    return len(states(database_url, where))


def eventually_sessions(database_url: str, expected: int, where: str = "true", deadline: float = 60.0) -> int:
    """The number of sessions once it is the expected one, or what it is after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while (found := sessions(database_url, where)) != expected and time.monotonic() < end:
        time.sleep(0.02)
    return found


def terminate_sessions(database_url: str) -> int:
    """Ends every other session of the database, as a failover would; returns how many. They are gone when it returns:
    a session that has been told to end may still answer."""
    with psycopg.connect(plain(database_url), autocommit=True, application_name=_OBSERVER) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name <> %s AND backend_type = 'client backend'",
            [_OBSERVER],
        ).fetchall()
    return len(rows)
