"""Queue ``logs``: light, frequent tasks that store execution logs."""

from __future__ import annotations

from uuid import UUID

from app.core.celery_app import celery_app
from app.repositories import repo_factory
from app.repositories.task_repository import TaskRepository
from app.tasks.enqueue import EXECUTION_LOG
from app.tasks.run import run

__all__ = ["store_execution_log"]


@celery_app.task(name=EXECUTION_LOG)
def store_execution_log(task_id: str, step: str, message: str) -> None:
    """Stores one line of a roadmap's execution log."""
    run(_store(UUID(task_id), step, message))


async def _store(task_id: UUID, step: str, message: str) -> None:
    async with repo_factory.create_session() as session:
        await TaskRepository(session).add_log(task_id, step, message)
