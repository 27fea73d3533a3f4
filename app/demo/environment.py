"""The servers and ports that the demo's processes run with."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from app.demo.servers import free_port, start_postgres, start_redis

__all__ = ["demo_environment"]

DATABASE_CONNECTIONS = 200


def demo_environment(stack: ExitStack, given: Mapping[str, str]) -> dict[str, str]:
    """What the demo's processes run with: the given environment, with servers and ports filled in.

    ``DATABASE_URL`` and ``REDIS_URL`` name servers to use. Those that are not given are started, and end with the
    stack.

    Raises:
        ServerError: a server did not start.
    """
    environment = {**given, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH', os.defpath)}"}
    if not given.get("DATABASE_URL"):
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopwatch-postgres-")))
        postgres = start_postgres(directory, max_connections=DATABASE_CONNECTIONS)
        stack.callback(postgres.close)
        environment["DATABASE_URL"] = postgres.url.replace("postgresql:", "postgresql+asyncpg:")
        environment["DATABASE_MAX_CONNECTIONS"] = str(DATABASE_CONNECTIONS)
    if not given.get("REDIS_URL"):
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopwatch-redis-")))
        redis = start_redis(directory)
        stack.callback(redis.close)
        environment["REDIS_URL"] = redis.url
    environment.setdefault("API_PORT", str(free_port(8080)))
    environment.setdefault("MONITOR_PORT", str(free_port(9808)))
    environment.setdefault("LLM_PORT", str(free_port(8090)))
    return environment
