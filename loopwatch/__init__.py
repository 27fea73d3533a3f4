"""loopwatch: event-loop safe clients for Celery workers that run asyncio code, measured.

Importing this costs milliseconds and needs no third-party package: every name is loaded on first use (PEP 562), and
one whose package is missing says which extra to install.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from loopwatch._version import __version__

if TYPE_CHECKING:
    from loopwatch.adapters.http import HTTPTransport, http_client
    from loopwatch.adapters.redis import RedisConnectionPool, redis_from_url
    from loopwatch.adapters.redis_sentinel import RedisSentinelPool
    from loopwatch.adapters.sqlalchemy import LoopAwarePool, create_async_engine, observe
    from loopwatch.celery.instrument import instrument
    from loopwatch.celery.task import AsyncTask
    from loopwatch.conflicts import Conflict, classify
    from loopwatch.connection_budget import Budget, budget
    from loopwatch.errors import (
        BudgetError,
        ConfigurationError,
        LoopConflictError,
        LoopwatchError,
        MissingExtraError,
        RunningLoopError,
    )
    from loopwatch.per_loop import PerLoop
    from loopwatch.runner import run_async
    from loopwatch.telemetry.prometheus import Collector
    from loopwatch.telemetry.reporter import report
    from loopwatch.tolerate import tolerated

__all__ = [
    "AsyncTask",
    "Budget",
    "BudgetError",
    "Collector",
    "ConfigurationError",
    "Conflict",
    "HTTPTransport",
    "LoopAwarePool",
    "LoopConflictError",
    "LoopwatchError",
    "MissingExtraError",
    "PerLoop",
    "RedisConnectionPool",
    "RedisSentinelPool",
    "RunningLoopError",
    "__version__",
    "budget",
    "classify",
    "create_async_engine",
    "http_client",
    "instrument",
    "observe",
    "redis_from_url",
    "report",
    "run_async",
    "tolerated",
]

_HOMES = {
    "loopwatch.adapters.http": ("HTTPTransport", "http_client"),
    "loopwatch.adapters.redis": ("RedisConnectionPool", "redis_from_url"),
    "loopwatch.adapters.redis_sentinel": ("RedisSentinelPool",),
    "loopwatch.adapters.sqlalchemy": ("LoopAwarePool", "create_async_engine", "observe"),
    "loopwatch.connection_budget": ("Budget", "budget"),
    "loopwatch.celery": ("AsyncTask", "instrument"),
    "loopwatch.conflicts": ("Conflict", "classify"),
    "loopwatch.errors": (
        "BudgetError",
        "ConfigurationError",
        "LoopConflictError",
        "LoopwatchError",
        "MissingExtraError",
        "RunningLoopError",
    ),
    "loopwatch.per_loop": ("PerLoop",),
    "loopwatch.runner": ("run_async",),
    "loopwatch.telemetry.prometheus": ("Collector",),
    "loopwatch.telemetry.reporter": ("report",),
    "loopwatch.tolerate": ("tolerated",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
_EXTRAS = {
    "celery": "celery",
    "greenlet": "sqlalchemy",
    "httpx": "httpx",
    "prometheus_client": "prometheus",
    "redis": "redis",
    "sqlalchemy": "sqlalchemy",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'loopwatch' has no attribute {name!r}")
    try:
        value: object = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        from loopwatch.errors import MissingExtraError

        raise MissingExtraError(name, package, _EXTRAS[package]) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
