"""Pool children that are fresh interpreters: ``worker_pool_start_method = "spawn"``, or the default on macOS.

Such a child has nothing of its parent but its arguments and its environment. Celery unpickles the application for it:
another object than the one that the child's import of the same module makes, and without the worker's choice of queues
(``-Q``). An environment variable, set before the pool starts, hands both over: where to report, and which queues.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from typing import Any, NamedTuple

import billiard

from loopwatch.celery.identity import pool_name
from loopwatch.telemetry.channel import Channel
from loopwatch.telemetry.door import can_open, connect

__all__ = ["Invitation", "invitation", "invite", "is_spawning", "withdraw"]

logger = logging.getLogger("loopwatch")

_VARIABLE = "LOOPWATCH_POOL"
_CHILDLESS = ("solo", "threads", "gevent", "eventlet")


class Invitation(NamedTuple):
    """What a spawned child is told: where its parent listens, and the queues that the worker consumes."""

    address: str
    queues: list[str]

    def connect(self) -> socket.socket | None:
        """The child's end of its parent's door; ``None``, and a warning, when the parent is not there."""
        try:
            return connect(self.address)
        except OSError as error:
            logger.warning("loopwatch: no telemetry from this pool child, its parent does not listen: %s", error)
            return None


def is_spawning(worker: Any) -> bool:
    """Whether this worker's pool is about to start its children as fresh interpreters."""
    if pool_name(worker.pool_cls) in _CHILDLESS:
        return False
    # Asked so that nothing is decided by asking: until then the application may still choose.
    default = billiard.get_start_method(allow_none=True) or ("spawn" if sys.platform == "darwin" else "fork")
    return default != "fork" or getattr(worker, "pool_start_method", "fork") == "spawn"


def invite(channel: Channel, queues: list[str]) -> None:
    """Opens the channel's door and tells the children that will be spawned of it; a warning where there is none."""
    if not can_open():
        logger.warning(
            'loopwatch: no telemetry from pool children, which are spawned: it needs Linux, or "fork" as Celery\'s '
            "worker_pool_start_method"
        )
        return
    os.environ[_VARIABLE] = json.dumps(Invitation(channel.open_door(), queues)._asdict())


def invitation() -> Invitation | None:
    """In a pool child: what its parent told; ``None`` when that was nothing."""
    text = os.environ.get(_VARIABLE)
    return Invitation(**json.loads(text)) if text else None


def withdraw() -> None:
    """The worker ends: what this process starts from now on is no child of its pool."""
    os.environ.pop(_VARIABLE, None)
