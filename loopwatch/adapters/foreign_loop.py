"""The refusal of a resource that belongs to another event loop, before anything of it is touched."""

from __future__ import annotations

from asyncio import AbstractEventLoop, _get_running_loop

from loopwatch.conflicts import Kind, count_once
from loopwatch.errors import LoopConflictError

__all__ = ["refuse_foreign_loop"]


def refuse_foreign_loop(owner: AbstractEventLoop | None, *, what: str, fix: str, resource: str) -> None:
    """Raises `LoopConflictError`, counted, when another loop than ``owner`` is running; ``what`` and ``fix`` are words
    of its message."""
    user = _get_running_loop()
    if owner is user or owner is None or user is None:
        return
    kind: Kind = "closed_loop" if owner.is_closed() else "cross_loop"
    state = "is closed" if owner.is_closed() else "is another one"
    error = LoopConflictError(
        f"{what} was used on an event loop that is not its own, which {state}: {fix}",
        resource=resource,
        kind=kind,
        owner=f"{owner!r} at {id(owner):#x}",
        user=f"{user!r} at {id(user):#x}",
    )
    count_once(error, source="guard")
    raise error
