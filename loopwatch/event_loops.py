"""Which kind of event loop `run_async` makes: asyncio's, uvloop's, or one for greenlets."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from asyncio import AbstractEventLoop

from loopwatch import green
from loopwatch.errors import ConfigurationError

__all__ = ["KINDS", "check_event_loop", "new_event_loop", "use_event_loop"]

logger = logging.getLogger("loopwatch")

KINDS = ("asyncio", "uvloop")

_kind = "asyncio"


def check_event_loop(kind: str | None) -> None:
    """Raises unless it is ``None`` or a kind of loop that this process can make.

    Raises:
        ConfigurationError: an unknown kind, or uvloop is not installed.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigurationError(f"event_loop={kind!r}: one of {', '.join(map(repr, KINDS))}, or None for asyncio's")
    if kind == "uvloop" and not _installed("uvloop"):
        raise ConfigurationError(
            "event_loop='uvloop' needs the package 'uvloop', which is not installed: pip install uvloop"
        )


def use_event_loop(kind: str) -> None:
    """The loops that `run_async` makes from now on, in this process and its children, are of this kind."""
    global _kind
    _kind = kind


def new_event_loop() -> AbstractEventLoop:
    """A loop of the kind in use. ``asyncio`` is what asyncio's policy makes, so ``uvloop.install()`` counts as well."""
    patched_by = green.patched_by()
    if patched_by is not None:
        if _kind != "asyncio":
            logger.warning("event_loop=%r is not for %s's greenlets: asyncio's own loop is used", _kind, patched_by)
        return green.new_event_loop(patched_by)
    if _kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # in sys.modules, as None
        return False
