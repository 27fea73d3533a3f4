"""What users do: ask for a roadmap, wait for its outline, review it, wait for the end; over and over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import count, cycle
from typing import Any, TypeVar

import aiohttp

__all__ = ["Traffic"]

TOPICS = ("Python", "SQL", "Rust", "the violin", "Bayesian statistics", "sourdough", "Kubernetes", "日本語", "chess")
PATIENCE = 10.0
"""Seconds until a user gives up on a roadmap that does not move: with the disease some never do."""
POLL = 0.2
"""Seconds between two looks at a roadmap's state."""
PAUSE = 1.0
"""Seconds until a user whose roadmap did not work out asks for another one."""

T = TypeVar("T")


class Traffic:
    """Users of the API at ``base_url``, one roadmap each at a time."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base = base_url
        self._topics = cycle(TOPICS)
        # Every seventh reviewer rejects the outline.
        self._verdicts = (number % 7 != 0 for number in count(1))
        self._stopping = False

    async def run(self, *, users: int, waiting: Sequence[str] = ()) -> None:
        """Goes on until `stop`; first come the reviews of the roadmaps that wait for one, all at once."""
        async with asyncio.TaskGroup() as group:
            for task in waiting:
                group.create_task(_with_patience(self._review(task, approved=True)))
            for _ in range(users):
                group.create_task(self._user())

    def stop(self) -> None:
        """No new roadmaps from now on; each user finishes the one at hand."""
        self._stopping = True

    async def leave_waiting(self, number: int) -> list[str]:
        """Asks for roadmaps and leaves them unreviewed; returns those that got their outlines."""
        outlines = [_with_patience(self._outline(next(self._topics))) for _ in range(number)]
        return [task for task in await asyncio.gather(*outlines) if task]

    async def _user(self) -> None:
        while not self._stopping:
            if not await _with_patience(self._roadmap()):
                await asyncio.sleep(PAUSE)

    async def _roadmap(self) -> bool:
        task = await self._outline(next(self._topics))
        return task is not None and await self._review(task, approved=next(self._verdicts))

    async def _outline(self, topic: str) -> str | None:
        """The task's path once its outline waits for a review; None when it failed."""
        begun = await self._post("/api/v1/generation/roadmap", {"query": f"Learn {topic}"})
        task = f"/api/v1/tasks/{begun['task_id']}"
        return task if await self._end_of(task, "waiting_for_review") == "waiting_for_review" else None

    async def _review(self, task: str, *, approved: bool) -> bool:
        """True when the review led to what it should."""
        await self._post(f"{task}/review", {"approved": approved, "feedback": None if approved else "Too long"})
        return await self._end_of(task, "completed") == ("completed" if approved else "failed")

    async def _end_of(self, task: str, state: str) -> str:
        """The state reached: the one asked for, or ``failed``."""
        while True:
            async with self._session.get(self._base + task) as answer:
                answer.raise_for_status()
                reached = str((await answer.json())["state"])
            if reached in (state, "failed"):
                return reached
            await asyncio.sleep(POLL)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async with self._session.post(self._base + path, json=body) as answer:
            answer.raise_for_status()
            return await answer.json()


async def _with_patience(steps: Coroutine[Any, Any, T]) -> T | None:
    """What the steps return; None when there was no answer, or nothing moved: a user tries again later."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await steps
    except (aiohttp.ClientError, TimeoutError):
        return None
