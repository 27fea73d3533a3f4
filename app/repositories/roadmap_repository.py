"""Roadmaps and their sections in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import Roadmap, Section

__all__ = ["RoadmapRepository"]


class RoadmapRepository:
    """Roadmaps and sections, in one session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(self, task_id: UUID, title: str, sections: Sequence[str]) -> None:
        self._session.add(Roadmap(task_id=task_id, title=title))
        self._session.add_all(
            Section(task_id=task_id, position=position, title=section) for position, section in enumerate(sections, 1)
        )
        await self._session.flush()

    async def get(self, task_id: UUID) -> Roadmap | None:
        return await self._session.get(Roadmap, task_id)

    async def section(self, task_id: UUID, position: int) -> Section | None:
        return await self._session.get(Section, (task_id, position))

    async def sections(self, task_id: UUID) -> list[Section]:
        """The task's sections in their order."""
        statement = select(Section).where(Section.task_id == task_id).order_by(Section.position)
        return list(await self._session.scalars(statement))

    async def write(self, task_id: UUID, position: int, content: str) -> int:
        """Stores a section's content; returns how many sections of the task have none yet.

        The task's row must be locked: two sections that are written at once would each see the other one missing.
        """
        await self._session.execute(
            update(Section).where(Section.task_id == task_id, Section.position == position).values(content=content)
        )
        missing = select(func.count()).select_from(Section).where(Section.task_id == task_id, Section.content.is_(None))
        return await self._session.scalar(missing) or 0
