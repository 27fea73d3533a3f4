"""The refusal of a resource that belongs to another event loop, before anything of it is touched."""

from __future__ import annotations

from asyncio import AbstractEventLoop, _get_running_loop

from loopwatch.conflicts import Kind, count_once
from loopwatch.errors import LoopConflictError

__all__ = ["describe_loop", "kind_of", "refuse_foreign_loop"]


def refuse_foreign_loop(owner: AbstractEventLoop | None, *, what: str, fix: str, resource: str) -> None:
    """Raises `LoopConflictError`, counted, when another loop than ``owner`` is running; ``what`` and ``fix`` are words
    of its message."""
    user = _get_running_loop()
    if owner is user or owner is None or user is None:
        return
    error = LoopConflictError(
        f"{what} that belongs to {describe_loop(owner)} was used on {describe_loop(user)}: {fix}",
        resource=resource,
        kind=kind_of(owner),
        owner=describe_loop(owner),
        user=describe_loop(user),
    )
    count_once(error, source="guard")
    raise error


def kind_of(owner: AbstractEventLoop) -> Kind:
    """What the use of a resource of this loop on another one is."""
    return "closed_loop" if owner.is_closed() else "cross_loop"


def describe_loop(loop: AbstractEventLoop) -> str:
    """Which one, whose, and in what state: ``loop 0x7f1d (asyncio, idle)``."""
    state = "closed" if loop.is_closed() else "running" if loop.is_running() else "idle"
    return f"loop {id(loop):#x} ({type(loop).__module__.partition('.')[0]}, {state})"
