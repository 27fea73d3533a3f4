"""Clients that are as patient as a test has to be: httpx's own give up after five seconds."""

from __future__ import annotations

from typing import Any

import loopwatch

__all__ = ["PATIENCE", "http_client"]

PATIENCE = 60.0
"""Seconds that anything may take on a slow machine."""


def http_client(**options: Any) -> Any:
    """`loopwatch.http_client` with this patience, unless the test has one of its own."""
    return loopwatch.http_client(**{"timeout": PATIENCE} | options)
