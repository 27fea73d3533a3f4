"""Queue ``content``: one task a section of a roadmap; an LLM writes it."""

from __future__ import annotations

from uuid import UUID

import structlog

from app.core.celery_app import celery_app
from app.repositories import repo_factory
from app.repositories.roadmap_repository import RoadmapRepository
from app.repositories.task_repository import TaskRepository
from app.services.llm import write_section
from app.services.notification_service import notification_service
from app.services.states import State
from app.tasks.enqueue import FINISH, SECTION, enqueue, record, step_id
from app.tasks.run import run_step

__all__ = ["generate_section"]

logger = structlog.get_logger(__name__)


@celery_app.task(name=SECTION)
def generate_section(task_id: str, position: int) -> None:
    """Writes one section; the one that is written last ends the workflow."""
    run_step(UUID(task_id), _generate_section(UUID(task_id), position))


async def _generate_section(task_id: UUID, position: int) -> None:
    async with repo_factory.create_session() as session:
        task = await TaskRepository(session).get(task_id)
        section = await RoadmapRepository(session).section(task_id, position)
    if task is None or section is None or task.state != State.GENERATING_CONTENT:
        # Another section has failed, or the message was delivered twice.
        logger.info("section_skipped", task_id=str(task_id), position=position)
        return
    # No connection is held while the LLM thinks.
    content = await write_section(task.query, section.title)
    missing = await _store(task_id, position, content)
    logger.info("section_completed", task_id=str(task_id), position=position)
    await notification_service.publish_section(task_id, position, section.title)
    if not missing:
        await enqueue(FINISH, str(task_id), celery_id=step_id(task_id, "finish"))
    await record(task_id, "content", f"Section {position} is written: {section.title}")


async def _store(task_id: UUID, position: int, content: str) -> int:
    async with repo_factory.create_session() as session:
        await TaskRepository(session).touch(task_id)
        return await RoadmapRepository(session).write(task_id, position, content)
