"""How a task runs its coroutine, and what becomes of a roadmap when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar
from uuid import UUID

import structlog

import loopwatch
from app.core.config import get_settings
from app.repositories import repo_factory
from app.repositories.task_repository import TaskRepository
from app.services.notification_service import notification_service
from app.services.states import State

__all__ = ["run", "run_step"]

logger = structlog.get_logger(__name__)
T = TypeVar("T")

MAX_ERROR = 1000
"""Characters of an error that are kept: a driver's message can hold a whole statement with its parameters."""


def run(coroutine: Coroutine[object, object, T]) -> T:
    """Runs the coroutine: on the worker's one loop, or, with the disease, on a new loop as most teams do."""
    if get_settings().app_resources == "loop_aware":
        return loopwatch.run_async(coroutine)
    return asyncio.run(coroutine)


def run_step(task_id: UUID, coroutine: Coroutine[object, object, T]) -> T:
    """Runs one step of a roadmap's workflow; when it fails, the roadmap is marked as failed and the error is raised."""
    try:
        return run(coroutine)
    except Exception as error:
        # Out here and not in the coroutine: a soft time limit cancels the coroutine, which can then await no more.
        try:
            run(_mark_task_failed(task_id, error))
        except Exception as critical:
            # What went wrong first is what the result backend must show.
            raise error from critical
        raise


async def _mark_task_failed(task_id: UUID, error: BaseException) -> None:
    """First the critical part, the row, whose error is raised; then the auxiliary one, which never disturbs it."""
    reason = f"{type(error).__name__}: {error}"[:MAX_ERROR]
    try:
        async with repo_factory.create_session() as session:
            await TaskRepository(session).transition(task_id, State.FAILED, error=reason)
    except Exception as critical:
        logger.error("failed_to_update_task_status", task_id=str(task_id), error=str(critical))
        raise
    logger.info("task_marked_as_failed", task_id=str(task_id), error=reason)
    if not await notification_service.publish_failed(task_id, reason):
        logger.warning("failed_to_send_failure_notification", task_id=str(task_id))
