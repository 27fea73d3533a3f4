"""An engine on the one loop of a server thread, where every coroutine runs: right already."""
# Celery is typed in parts.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import threading
from functools import cached_property

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.acceptance.adoption.celery_app import app, database


class Server:
    engine = create_async_engine(database("osparc"))
    _lock = threading.Lock()  # `cached_property` has none since Python 3.12

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            return self._loop

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        return loop


server = Server()


@app.task(name="osparc")
def simulate() -> int:
    return asyncio.run_coroutine_threadsafe(_simulate(), server.loop).result()


async def _simulate() -> int:
    async with server.engine.connect() as connection:
        return int((await connection.execute(text("SELECT 42"))).scalar_one())
