"""Queue ``roadmap_workflow``, first half: the outline, up to the human's review."""

from __future__ import annotations

from uuid import UUID

import structlog

from app.core.celery_app import celery_app
from app.repositories import repo_factory
from app.repositories.roadmap_repository import RoadmapRepository
from app.repositories.task_repository import TaskRepository
from app.services import llm
from app.services.notification_service import notification_service
from app.services.states import State
from app.tasks.enqueue import OUTLINE, record
from app.tasks.run import run_step

__all__ = ["generate_outline"]

logger = structlog.get_logger(__name__)


@celery_app.task(name=OUTLINE)
def generate_outline(task_id: str) -> None:
    """Asks the LLM for the outline and leaves the roadmap waiting for its review."""
    run_step(UUID(task_id), _generate_outline(UUID(task_id)))


async def _generate_outline(task_id: UUID) -> None:
    query = await _begin(task_id)
    if query is None:
        logger.info("outline_skipped", task_id=str(task_id))
        return
    await notification_service.publish_state(task_id, State.GENERATING_OUTLINE)
    outline = await llm.generate_outline(query)
    async with repo_factory.create_session() as session:
        await RoadmapRepository(session).create(task_id, outline.title, outline.sections)
        await TaskRepository(session).transition(task_id, State.WAITING_FOR_REVIEW)
    logger.info("workflow_waiting_for_review", task_id=str(task_id), sections=len(outline.sections))
    await notification_service.publish_state(task_id, State.WAITING_FOR_REVIEW, **outline.model_dump())
    await record(task_id, "outline", f"The outline has {len(outline.sections)} sections")


async def _begin(task_id: UUID) -> str | None:
    """What the roadmap is to be about; None when there is nothing to begin (the message was delivered twice)."""
    async with repo_factory.create_session() as session:
        tasks = TaskRepository(session)
        if not await tasks.transition(task_id, State.GENERATING_OUTLINE):
            return None
        task = await tasks.get(task_id)
        return task.query if task else None
