"""The functions that Celery itself puts around a task's: they hand on a coroutine as if it were the result."""

from __future__ import annotations

from types import CellType
from typing import Any

__all__ = ["beneath", "validated"]

_MODULES = {"celery.app.base", "celery.app.autoretry"}
"""Where ``pydantic=True`` and ``autoretry_for`` are. Told by the globals: `functools.wraps` hides all else."""


def beneath(function: Any) -> Any:
    """What Celery calls in the end: the function that it was given, without what Celery itself has put around it."""
    while _module(function) in _MODULES and hasattr(function, "__wrapped__"):
        cell = validated(function)
        function = function.__wrapped__ if cell is None else cell.cell_contents
    return function


def validated(function: Any) -> CellType | None:
    """Where the function made for ``pydantic=True`` keeps the one that it calls, and whose result it then dumps.

    Celery has no hook between the two: it makes the one from the other before the task's class exists.
    """
    if _module(function) != "celery.app.base":
        return None
    names: tuple[str, ...] = function.__code__.co_freevars
    return function.__closure__[names.index("task_fun")] if "task_fun" in names else None


def _module(function: Any) -> object:
    return getattr(getattr(function, "__func__", function), "__globals__", {}).get("__name__")
