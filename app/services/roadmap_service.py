"""What the API does with roadmaps: begin one, review one, show one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from app.core.celery_app import celery_app
from app.db.models import Roadmap, Section, Task
from app.repositories import repo_factory
from app.repositories.roadmap_repository import RoadmapRepository
from app.repositories.task_repository import TaskRepository
from app.services.notification_service import notification_service
from app.services.states import ACTIVE, State
from app.tasks.enqueue import OUTLINE, RESUME, enqueue, step_id

__all__ = ["ReviewRefusedError", "UnavailableError", "begin", "review", "show"]

logger = structlog.get_logger(__name__)

RESULT_TIMEOUT = 2.0
"""Seconds to wait for the result backend; without it a task is shown as its row says."""
STALLED = timedelta(hours=2)
"""Without progress for so long, a task's message is lost: longer than every time limit and the broker's redelivery."""


class UnavailableError(Exception):
    """The broker did not take a task; what had been begun was undone."""


class ReviewRefusedError(Exception):
    """The task is not waiting for a review; the message says what its state is."""


async def begin(query: str) -> UUID:
    """Creates the task and sends its workflow; raises `UnavailableError`."""
    async with repo_factory.create_session() as session:
        task = await TaskRepository(session).create(query)
    await _send(task.id, OUTLINE, "outline", undo=State.FAILED, error="The broker was not reachable")
    logger.info("roadmap_requested", task_id=str(task.id))
    return task.id


async def review(task_id: UUID, *, approved: bool, feedback: str | None) -> bool:
    """Records the review and resumes the workflow; False when there is no such task.

    Of two reviews at the same moment one wins, as the transition is one UPDATE.

    Raises:
        ReviewRefusedError: it was reviewed already, or is not ready for it.
        UnavailableError: the broker is not reachable; the task waits for its review as before.
    """
    async with repo_factory.create_session() as session:
        tasks = TaskRepository(session)
        won = await tasks.transition(task_id, State.RESUMING, approved=approved, feedback=feedback)
        task = await tasks.get(task_id)
    if task is None:
        return False
    if not won:
        raise ReviewRefusedError(_refusal(task))
    await _send(task_id, RESUME, "resume", undo=State.WAITING_FOR_REVIEW, approved=None, feedback=None)
    logger.info("roadmap_reviewed", task_id=str(task_id), approved=approved)
    await notification_service.publish_state(task_id, State.RESUMING, approved=approved)
    return True


def _refusal(task: Task) -> str:
    if task.approved is not None:
        return "the task was reviewed already"
    return f"the task is not waiting for a review: its state is {task.state}"


async def _send(task_id: UUID, name: str, step: str, *, undo: State, **fields: Any) -> None:
    try:
        await enqueue(name, str(task_id), celery_id=step_id(task_id, step))
    except Exception as error:
        logger.error("task_not_sent", task_id=str(task_id), step=step, error=str(error))
        async with repo_factory.create_session() as session:
            await TaskRepository(session).transition(task_id, undo, **fields)
        raise UnavailableError("the broker is not reachable") from error


async def show(task_id: UUID) -> dict[str, Any] | None:
    """The task with its roadmap, as JSON types; None when there is no such task."""
    async with repo_factory.create_session() as session:
        tasks, roadmaps = TaskRepository(session), RoadmapRepository(session)
        task = await tasks.get(task_id)
        if task is None:
            return None
        roadmap = await roadmaps.get(task_id)
        sections = await roadmaps.sections(task_id)
    if task.state in ACTIVE and (error := await _lost_step(task, sections)):
        async with repo_factory.create_session() as session:
            tasks = TaskRepository(session)
            await tasks.transition(task_id, State.FAILED, error=error)
            task = await tasks.get(task_id) or task
    return _as_json(task, roadmap, sections)


async def _lost_step(task: Task, sections: list[Section]) -> str | None:
    """The error of a step that ended without a word in the row, as when its process was killed, or None.

    Celery's result backend knows it: without asking there such a roadmap would hang for ever.
    """
    if datetime.now(UTC) - task.updated_at > STALLED:
        return f"No progress for {STALLED}"
    steps = _awaited(State(task.state), sections)

    def ask() -> str | None:
        for step in steps:
            meta = celery_app.backend.get_task_meta(step_id(task.id, step))
            if meta["status"] == "FAILURE":
                error = meta["result"]
                return f"{type(error).__name__}: {error}"
        return None

    try:
        return await asyncio.wait_for(asyncio.to_thread(ask), RESULT_TIMEOUT)
    except Exception as error:  # noqa: BLE001
        # The row is what is known then; the next request asks again.
        logger.warning("result_backend_not_reachable", error=str(error))
        return None


def _awaited(state: State, sections: list[Section]) -> list[str]:
    """The steps whose end the state waits for. One that has led to a later state has done its work, though its result
    may be a failure: the broker may have been away when it was to be stored."""
    if state in (State.PENDING, State.GENERATING_OUTLINE):
        return ["outline"]
    if state == State.RESUMING:
        return ["resume"]
    return ["resume", *(f"section-{section.position}" for section in sections), "finish"]


def _as_json(task: Task, roadmap: Roadmap | None, sections: list[Section]) -> dict[str, Any]:
    reviewed = task.approved is not None
    return {
        "task_id": str(task.id),
        "query": task.query,
        "state": task.state,
        "error": task.error,
        "review": {"approved": task.approved, "feedback": task.feedback} if reviewed else None,
        "roadmap": roadmap
        and {
            "title": roadmap.title,
            "sections": [
                {"position": section.position, "title": section.title, "content": section.content}
                for section in sections
            ],
        },
        "created_at": task.created_at.isoformat(),
        "updated_at": task.updated_at.isoformat(),
    }
