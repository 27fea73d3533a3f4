"""Eager tasks (`asyncio.eager_task_factory`, Python 3.12): a task may have ended before ``create_task`` returns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from loopwatch.per_loop import PerLoop

if sys.version_info >= (3, 12):
    eager = asyncio.eager_task_factory
else:

    def eager(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **_: Any) -> asyncio.Future[Any]:
        """For coroutines that never wait."""
        ended: asyncio.Future[Any] = loop.create_future()
        ended.set_name = lambda name: None  # type: ignore[attr-defined]  # asyncio gives a task its name
        try:
            coroutine.send(None)
        except StopIteration as stop:
            ended.set_result(stop.value)
        except Exception as error:  # noqa: BLE001  # as a task does
            ended.set_exception(error)
        return ended


def test_a_factory_that_fails_at_once_is_not_kept() -> None:
    failing = [True]

    async def make() -> list[int]:
        if failing:
            raise ConnectionError("not yet")
        return []

    things = PerLoop(make)

    async def ask() -> list[int]:
        return await things.aget()

    async def use() -> None:
        asyncio.get_running_loop().set_task_factory(eager)  # type: ignore[arg-type, unused-ignore]
        for _ in range(2):
            try:
                await ask()
            except ConnectionError:
                assert len(things) == 0
        failing.clear()
        assert await ask() is await ask()
        assert len(things) == 1
        asyncio.get_running_loop().set_task_factory(None)

    asyncio.run(use())
    assert len(things) == 0
