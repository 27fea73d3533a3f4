"""What MariaDB says of a test's sessions."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import pymysql  # type: ignore[import-untyped]  # it ships no types

DRIVERS = ("aiomysql", "asyncmy")


def with_driver(mariadb_url: str, driver: str) -> str:
    """The URL for SQLAlchemy."""
    return mariadb_url.replace("mysql:", f"mysql+{driver}:")


def sessions(mariadb_url: str) -> int:
    """How many sessions this test's database has."""
    url = urlsplit(mariadb_url)
    with pymysql.connect(host=url.hostname, port=url.port, user=url.username, password=url.password) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM information_schema.processlist WHERE db = %s", [url.path.lstrip("/")])
        (found,) = cursor.fetchone()
    return int(found)


def eventually_sessions(mariadb_url: str, expected: int, deadline: float = 60.0) -> int:
    """The number of sessions once it is the expected one, or what it is after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while (found := sessions(mariadb_url)) != expected and time.monotonic() < end:
        time.sleep(0.02)
    return found
