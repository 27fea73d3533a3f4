"""Clients that are as patient as a test has to be: httpx's own give up after five seconds, and close a connection that
was idle for as long, so that what was one is two on a machine under load."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import loopwatch

__all__ = ["PATIENCE", "patient_client"]

PATIENCE = 60.0
"""Seconds that anything may take on a slow machine."""


def patient_client(*, library: ModuleType | str = "httpx2", **options: Any) -> Any:
    """`loopwatch.http_client`, with httpx's own limits, but for its haste."""
    of = import_module(library) if isinstance(library, str) else library
    limits = of.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=10 * PATIENCE)
    return loopwatch.http_client(library=library, **{"timeout": PATIENCE, "limits": limits} | options)
