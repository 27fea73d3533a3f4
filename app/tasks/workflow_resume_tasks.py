"""Queue ``roadmap_workflow``, second half: from the human's review to the end."""

from __future__ import annotations

from uuid import UUID

import structlog

from app.core.celery_app import celery_app
from app.repositories import repo_factory
from app.repositories.roadmap_repository import RoadmapRepository
from app.repositories.task_repository import TaskRepository
from app.services.notification_service import notification_service
from app.services.states import State
from app.tasks.enqueue import FINISH, RESUME, SECTION, enqueue, record, step_id
from app.tasks.run import run_step

__all__ = ["finish_workflow", "resume_workflow"]

logger = structlog.get_logger(__name__)


@celery_app.task(name=RESUME)
def resume_workflow(task_id: str) -> None:
    """Goes on after the review: one task a section when it was approved, the end when it was not."""
    run_step(UUID(task_id), _resume(UUID(task_id)))


@celery_app.task(name=FINISH)
def finish_workflow(task_id: str) -> None:
    """Ends the workflow once every section is written."""
    run_step(UUID(task_id), _finish(UUID(task_id)))


async def _resume(task_id: UUID) -> None:
    async with repo_factory.create_session() as session:
        tasks = TaskRepository(session)
        task = await tasks.lock(task_id)
        if task is None or task.state != State.RESUMING:
            logger.info("resume_skipped", task_id=str(task_id))
            return
        reason = None if task.approved else rejection(task.feedback)
        target = State.FAILED if reason else State.GENERATING_CONTENT
        await tasks.transition(task_id, target, error=reason)
        positions = [section.position for section in await RoadmapRepository(session).sections(task_id)]
    if reason:
        logger.info("workflow_rejected_in_review", task_id=str(task_id))
        await notification_service.publish_failed(task_id, reason)
        await record(task_id, "review", reason)
        return
    for position in positions:
        celery_id = step_id(task_id, f"section-{position}")
        await enqueue(SECTION, str(task_id), position, celery_id=celery_id)
    await notification_service.publish_state(task_id, State.GENERATING_CONTENT)
    await record(task_id, "review", "Approved")


async def _finish(task_id: UUID) -> None:
    async with repo_factory.create_session() as session:
        if not await TaskRepository(session).transition(task_id, State.COMPLETED):
            logger.info("finish_skipped", task_id=str(task_id))
            return
    logger.info("workflow_completed_after_review", task_id=str(task_id))
    await notification_service.publish_state(task_id, State.COMPLETED)
    await record(task_id, "finish", "The roadmap is complete")


def rejection(feedback: str | None) -> str:
    """What a roadmap that was rejected shows as its error."""
    return f"Rejected in review: {feedback}" if feedback else "Rejected in review"
