"""Sending tasks from a coroutine. Celery's client blocks, so it is called in a thread."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import loopwatch
from app.core.celery_app import celery_app

__all__ = ["EXECUTION_LOG", "FINISH", "OUTLINE", "RESUME", "SECTION", "enqueue", "record", "step_id"]

# Tasks are sent by name: the API then needs none of the modules that run them, and the modules do not need each other.
OUTLINE = "app.tasks.workflow_tasks.generate_outline"
RESUME = "app.tasks.workflow_resume_tasks.resume_workflow"
FINISH = "app.tasks.workflow_resume_tasks.finish_workflow"
SECTION = "app.tasks.content_tasks.generate_section"
EXECUTION_LOG = "app.tasks.log_tasks.store_execution_log"


def step_id(task_id: UUID, step: str) -> str:
    """The Celery id of a step of a roadmap's workflow: known beforehand, so that its result can be asked for."""
    return f"{task_id}.{step}"


async def enqueue(name: str, *arguments: Any, celery_id: str | None = None) -> None:
    """Sends a task to the queue of its name (`celery_app`'s routes); raises kombu's and the broker's errors."""
    await asyncio.to_thread(celery_app.send_task, name, args=arguments, task_id=celery_id)


async def record(task_id: UUID, step: str, message: str) -> None:
    """Adds a line to the task's execution log, by way of the queue ``logs``. Auxiliary: it never raises."""
    async with loopwatch.tolerated("execution_log", timeout=5):
        await enqueue(EXECUTION_LOG, str(task_id), step, message)
