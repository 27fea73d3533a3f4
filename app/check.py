"""``python -m app.check ROLE``: what must be right before a role starts.

One clear line on standard error that names the setting and the fix, and exit code 2, for a malformed setting, a
budget that cannot be met, and a database or broker that is not reachable. No credentials in it. Once a role runs,
an outage of either is survived.
"""

from __future__ import annotations

import asyncio
import sys

from kombu import Connection
from kombu.utils.url import maybe_sanitize_url
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.core.config import Settings, SettingsError, get_settings

__all__ = ["ROLES", "check"]

ROLES = ("api", "celery_logs", "celery_content", "celery_workflow")
TIMEOUT = 10
"""Seconds for the database, and for the broker, to answer."""


def check(settings: Settings) -> None:
    """Raises `SettingsError`, whose message is the one line."""
    settings.connection_budget()
    asyncio.run(_check_database(settings.database_url))
    _check_broker(settings.broker_url)


async def _check_database(url: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with asyncio.timeout(TIMEOUT), engine.connect():
            pass
    except Exception as error:
        # Drivers raise what they like here (OSError, asyncpg's, SQLAlchemy's); each means the same to the reader.
        shown = make_url(url).render_as_string(hide_password=True)
        raise SettingsError(
            f"DATABASE_URL: cannot connect to {shown} ({_reason(error)}); start the database there, or correct it"
        ) from error


def _check_broker(url: str) -> None:
    options = {"socket_connect_timeout": 3, "socket_timeout": TIMEOUT}
    try:
        with Connection(url, connect_timeout=3, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
    except Exception as error:
        # As above; kombu adds KeyError for a scheme that it does not know.
        raise SettingsError(
            f"CELERY_BROKER_URL (or REDIS_URL): cannot connect to {maybe_sanitize_url(url)} ({_reason(error)}); "
            "start the broker there, or correct it"
        ) from error


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def main(arguments: list[str]) -> int:
    """The exit code: 0, or 2 after one line on standard error."""
    if len(arguments) != 1 or arguments[0] not in ROLES:
        print(f"usage: python -m app.check {'|'.join(ROLES)}", file=sys.stderr)
        return 2
    try:
        check(get_settings())
    except SettingsError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
