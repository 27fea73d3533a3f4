"""What happens in the demo: the services, the workers with either setting, the traffic, and what the monitor saw."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from app.demo.fleet import Fleet
from app.demo.metrics import Page, QueueNumbers, numbers_by_queue
from app.demo.summary import Show, comparison, live
from app.demo.traffic import Traffic

__all__ = ["Demo", "DemoError"]

ENTRYPOINT = Path(__file__).resolve().parents[1] / "scripts" / "entrypoint.sh"
WORKERS = ("celery_logs", "celery_content", "celery_workflow")
QUEUES = ("logs", "content", "roadmap_workflow")
SETTINGS = ("loop_aware", "global")
GLOBAL_HOST = "global.%h"
"""The host that the nodes with the disease say they are on (``logs@global.HOST``): it tells the two sets apart."""

USERS = 4
START_TIMEOUT = 120.0
SETTLE_TIMEOUT = 30.0
CHILD_INTERVAL = 1.0
"""Seconds between the snapshots that a pool child sends to its worker: what is older is in the worker's next one."""


class DemoError(RuntimeError):
    """The demo could not go on; the message says why."""


class Demo:
    """The processes of one demo, and what is done with them.

    Args:
        logs: a directory for their output.
        environment: what they run with: servers and ports.
        console: where the summary goes.
    """

    def __init__(self, logs: Path, environment: dict[str, str], console: Console) -> None:
        self._logs = logs
        self._environment = environment
        self._console = console
        self._fleets: list[Fleet] = []
        self._api = f"http://127.0.0.1:{environment['API_PORT']}"
        self._monitor = f"http://127.0.0.1:{environment['MONITOR_PORT']}"

    def close(self) -> None:
        """Stops all processes, those that were started last first."""
        while self._fleets:
            self._fleets.pop().close()

    async def until_interrupted(self) -> int:
        """Healthy workers and traffic, for ever."""
        self._start_services()
        self._start_workers("loop_aware")
        async with self._session() as session:
            await self._workers_report(session, "loop_aware")
            self._print_addresses()
            with live(self._console) as show:
                await self._drive(session, Traffic(session, self._api).run(users=USERS), "loop_aware", show)
        return 0

    async def both_settings(self, seconds: float) -> int:
        """Half the time with each setting, then the table; 0 when it shows what it should, else 1."""
        rows: dict[str, list[QueueNumbers]] = {}
        waiting: list[str] = []
        self._start_services()
        workers = self._start_workers(SETTINGS[0])
        async with self._session() as session:
            self._print_addresses()
            for setting in SETTINGS:
                if rows:
                    await asyncio.to_thread(workers.close)
                    workers = self._start_workers(setting)
                await self._workers_report(session, setting)
                traffic = Traffic(session, self._api)
                with live(self._console) as show:
                    asyncio.get_running_loop().call_later(seconds / len(SETTINGS), traffic.stop)
                    await self._drive(session, traffic.run(users=USERS, waiting=waiting), setting, show)
                    if setting == SETTINGS[0]:
                        # The other workers take over in the middle of the work, as after a deployment.
                        waiting = await traffic.leave_waiting(USERS)
                    rows[setting] = await self._settled(session, setting)
                    show(setting, rows[setting])
            page = await self._page(session)
        self._console.print(comparison(rows))
        return self._verdict(page, rows)

    # ------------------------------------------------------------ processes

    def _start_services(self) -> None:
        """The LLM server, the API (which makes the tables) and the monitor."""
        llm_port = self._environment["LLM_PORT"]
        self._environment.setdefault("LLM_BASE_URL", f"http://127.0.0.1:{llm_port}/v1")
        self._start(
            {
                "llm": shlex.join([sys.executable, "-m", "app.llm_server", "--port", llm_port]),
                "api": shlex.join([str(ENTRYPOINT), "api"]),
                "monitor": shlex.join([str(ENTRYPOINT), "monitor"]),
            },
            APP_RESOURCES=SETTINGS[0],
        )

    def _start_workers(self, setting: str) -> Fleet:
        host = GLOBAL_HOST if setting == "global" else "%h"
        commands = {f"{role}-{setting}": shlex.join([str(ENTRYPOINT), role]) for role in WORKERS}
        return self._start(commands, APP_RESOURCES=setting, CELERY_NODE_HOST=host)

    def _start(self, commands: dict[str, str], **more: str) -> Fleet:
        fleet = Fleet(self._logs, commands, {**self._environment, **more})
        self._fleets.append(fleet)
        return fleet

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client for the services, which answer by then."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
            for url in (f"{self._monitor}/health", f"{self._api}/health"):
                await self._until(partial(_is_ok, session, url), f"{url} answers")
            yield session

    async def _workers_report(self, session: aiohttp.ClientSession, setting: str) -> None:
        of_node = _nodes_of(setting)

        async def all_report() -> bool:
            known = (await self._page(session)).labels("loopwatch_worker_queue")
            return {labels["queue_name"] for labels in known if of_node(labels["hostname"])} >= set(QUEUES)

        await self._until(all_report, f"the workers ({setting}) report to the monitor")

    async def _until(self, question: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not await question():
            self._check()
            if time.monotonic() > deadline:
                raise DemoError(f"not within {START_TIMEOUT:.0f} s: {what}")
            await asyncio.sleep(0.2)

    def _check(self) -> None:
        for fleet in self._fleets:
            fleet.check()

    # ------------------------------------------------------------ traffic and numbers

    async def _drive(
        self, session: aiohttp.ClientSession, traffic: Coroutine[Any, Any, None], setting: str, show: Show
    ) -> None:
        """Shows the numbers until the traffic ends."""
        users = asyncio.create_task(traffic)
        try:
            while not users.done():
                self._check()
                show(setting, _rows(await self._page(session), setting))
                await asyncio.wait([users], timeout=1 if self._console.is_terminal else 5)
            users.result()
        finally:
            users.cancel()

    async def _settled(self, session: aiohttp.ClientSession, setting: str) -> list[QueueNumbers]:
        """The numbers once the tasks under way have ended and every worker has reported since."""
        began = time.monotonic()
        idle_since: float | None = None
        while True:
            page = await self._page(session)
            now = time.monotonic()
            if _running(page, setting):
                idle_since = None
            elif idle_since is None:
                idle_since = now
            elif _oldest_snapshot(page, setting) < now - idle_since - CHILD_INTERVAL or now - began > SETTLE_TIMEOUT:
                return _rows(page, setting)
            if now - began > SETTLE_TIMEOUT:
                # With the disease a task may hang for ever; what the others did is known.
                return _rows(page, setting)
            await asyncio.sleep(0.5)

    async def _page(self, session: aiohttp.ClientSession) -> Page:
        try:
            async with session.get(f"{self._monitor}/metrics") as answer:
                answer.raise_for_status()
                return Page(await answer.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            self._check()
            raise DemoError(f"the monitor does not answer: {error!r}") from error

    def _print_addresses(self) -> None:
        for what, url in (
            ("API", self._api),
            ("monitor", f"{self._monitor}/"),
            ("metrics", f"{self._monitor}/metrics"),
        ):
            self._console.print(f"{what:8} {url}")

    def _verdict(self, page: Page, rows: dict[str, list[QueueNumbers]]) -> int:
        # Of everybody, not of the workers alone: the API's processes report, too.
        conflicts = {setting: _conflicts(page, setting) for setting in SETTINGS}
        idle = [row.queue for row in rows["loop_aware"] if not row.done]
        if idle:
            self._console.print(f"Not shown: with loop_aware no task was done in {', '.join(idle)}.")
        elif conflicts["loop_aware"]:
            self._console.print(f"Not as it should be: {conflicts['loop_aware']} loop conflicts with loop_aware.")
        elif not conflicts["global"]:
            self._console.print("Not shown: no loop conflict with global.")
        else:
            self._console.print(f"Loop conflicts: 0 with loop_aware, {conflicts['global']} with global.")
            return 0
        return 1


def _nodes_of(setting: str) -> Callable[[str], bool]:
    return lambda hostname: ("@global." in hostname) == (setting == "global")


def _rows(page: Page, setting: str) -> list[QueueNumbers]:
    return numbers_by_queue(page, QUEUES, of_node=_nodes_of(setting))


def _running(page: Page, setting: str) -> bool:
    of_node = _nodes_of(setting)

    def total(verb: str) -> int:
        return page.total(f"celery_task_{verb}_total", lambda labels: of_node(labels["hostname"]))

    return total("received") > total("succeeded") + total("failed")


def _conflicts(page: Page, setting: str) -> int:
    of_node = _nodes_of(setting)
    return page.total("loopwatch_loop_conflicts_total", lambda labels: of_node(labels["hostname"]))


def _oldest_snapshot(page: Page, setting: str) -> float:
    of_node = _nodes_of(setting)
    return page.highest("loopwatch_worker_snapshot_age_seconds", lambda labels: of_node(labels["hostname"]))


async def _is_ok(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
