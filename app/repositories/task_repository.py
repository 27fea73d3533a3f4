"""The workflow's state in PostgreSQL. A transition is one UPDATE that compares and sets, so two can never both win."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import ExecutionLog, Task
from app.services.states import State, sources

__all__ = ["TaskRepository"]


class TaskRepository:
    """Tasks and their execution log, in one session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(self, query: str) -> Task:
        task = Task(query=query, state=State.PENDING)
        self._session.add(task)
        await self._session.flush()
        return task

    async def get(self, task_id: UUID) -> Task | None:
        return await self._session.get(Task, task_id)

    async def lock(self, task_id: UUID) -> Task | None:
        """The task, with its row locked until the end of the transaction."""
        return await self._session.get(Task, task_id, with_for_update=True)

    async def transition(self, task_id: UUID, target: State, **fields: Any) -> bool:
        """Moves the task to ``target`` and sets ``fields``; False when its present state does not allow that."""
        statement = (
            update(Task)
            .where(Task.id == task_id, Task.state.in_(sources(target)))
            .values(state=target, updated_at=func.now(), **fields)
            .returning(Task.id)
        )
        return (await self._session.scalar(statement)) is not None

    async def touch(self, task_id: UUID) -> None:
        """Notes that the task goes on, which locks its row until the end of the transaction."""
        await self._session.execute(update(Task).where(Task.id == task_id).values(updated_at=func.now()))

    async def add_log(self, task_id: UUID, step: str, message: str) -> None:
        self._session.add(ExecutionLog(task_id=task_id, step=step, message=message))
        await self._session.flush()

    async def logs(self, task_id: UUID) -> list[ExecutionLog]:
        """The task's execution log, oldest first."""
        statement = select(ExecutionLog).where(ExecutionLog.task_id == task_id).order_by(ExecutionLog.id)
        return list(await self._session.scalars(statement))
