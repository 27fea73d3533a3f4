"""What `run_async` is given: checked, and told what to write where it is no coroutine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["check_subject", "made_by"]


def check_subject(subject: object) -> None:
    """Raises `TypeError` unless it is a coroutine or a function."""
    if not (inspect.iscoroutine(subject) or callable(subject)):
        raise TypeError(f"run_async() takes a coroutine or a function that makes one, not {_described(subject)}")


def made_by(factory: Callable[[], Any]) -> Awaitable[Any]:
    """What the function makes; raises `TypeError` when that cannot be awaited."""
    made = factory()
    if hasattr(made, "__await__") or inspect.isawaitable(made):
        return made  # type: ignore[no-any-return]
    raise TypeError(f"run_async() was given {factory!r}, which made {_described(made)}")


def _described(subject: object) -> str:
    """What it is, and what to write instead."""
    if inspect.isasyncgen(subject):
        return "an async generator: write a coroutine function with `async for` around it"
    if isinstance(subject, asyncio.Future):
        return f"{type(subject).__name__!r}, which belongs to the loop that made it: pass the coroutine itself"
    return repr(type(subject).__name__)
