"""Applications in the styles that real ones are written in, before and after adopting loopwatch, on real workers.

Each style is a pair of modules in `tests.acceptance.adoption`. The difference of the two is counted, and held to what
adopting may cost; both run on the pool that the style is seen on, and after adopting tasks that come all at once
succeed, without a conflict and with figures, and leave no session on the server.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import ndiff
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql  # type: ignore[import-untyped]  # it ships no types
import pytest
from celery import Celery

import loopwatch
from app.demo.servers import Server
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from tests.acceptance.workers import DEADLINE, Listener, Worker, wait_until, worker
from tests.integration.http_server import serve

pytestmark = pytest.mark.timeout(300)

APPS = Path(__file__).parent / "adoption"
APP = "tests.acceptance.adoption.celery_app"
TASKS = 12

LINES = {
    "surfsense": 8,
    "bisheng": 5,
    "onyx": 4,
    "leap": 10,
    "agentic": 2 + 4 + 4,  # engine, Redis, LLM
    "fba": 1 + 2 + 4,  # engine, subclass of Redis, asynchronous hooks
    "pingcrm": 3,
    "chithi": 2,
    "wegent": 9,
    "vstorm": 6,
    "momentum": 1,
    "flowsint": 2,
    "osparc": 2,  # observe() and its import, and nothing of its own changes
}
"""How many lines of the application may be new or others than before; what is deleted is not counted."""

POOLS = {
    "prefork": ["surfsense", "leap", "agentic", "pingcrm", "vstorm", "momentum", "flowsint", "osparc"],
    "threads": ["bisheng", "onyx", "leap", "flowsint", "osparc"],
    "solo": ["wegent"],
    "gevent": ["fba"],
    "celery-aio-pool": ["chithi"],
}
BROKEN = {"momentum"}
"""What fails as it is: its first task in a forked process."""
COMPLAINTS = ["Traceback", "different loop", "loop is closed", "conflict", "has been held", "never awaited", "ERROR/"]
"""What nobody is to read in the worker's log."""
MYSQL = {"bisheng", "wegent"}


def _lines(path: Path) -> list[str]:
    """The lines of code, without the docstring, blank lines and indentation."""
    body = ast.parse(path.read_text()).body
    assert body[0].end_lineno is not None
    return [line.strip() for line in path.read_text().splitlines()[body[0].end_lineno :] if line.strip()]


def _difference(style: str) -> list[str]:
    return list(ndiff(_lines(APPS / f"{style}_before.py"), _lines(APPS / f"{style}_after.py")))


def _new(style: str) -> list[str]:
    """The lines that were not there before; an import that only lost names was."""
    difference = _difference(style)
    imported = [_words(line) for line in difference if line.startswith("- from ")]
    return [line for line in difference if line[0] == "+" and not any(_words(line) <= words for words in imported)]


def _words(line: str) -> set[str]:
    return set(line[2:].replace(",", "").split())


@pytest.mark.parametrize("style", LINES)
def test_adopting_costs_no_more_lines_than_it_may(style: str) -> None:
    new = _new(style)
    assert 0 < len(new) <= LINES[style], "\n".join(new)


def test_what_is_right_already_is_only_observed() -> None:
    changed = [line for line in _difference("osparc") if line[0] in "+-"]
    assert changed == ["+ import loopwatch", "+ loopwatch.observe(server.engine)"]


def test_every_style_is_run() -> None:
    assert {style for styles in POOLS.values() for style in styles} == set(LINES)
    assert {path.stem.rpartition("_")[0] for path in APPS.glob("*_*.py")} - {"celery"} == set(LINES)


@pytest.fixture(scope="module")
def client(redis_server: Server) -> Iterator[Celery]:
    # Database 0 of Redis is nobody else's; the queue has the worker's name.
    with Celery("client", broker=redis_server.url, backend=redis_server.url, set_as_current=False) as client:
        yield client


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    if request.param == "celery-aio-pool":
        pytest.importorskip("celery_aio_pool", reason="a package that we do not depend on")
    name: str = request.param
    return name


class Databases:
    """A database for each style on a real server, and who is connected to them."""

    def __init__(self, postgres: Server, mysql: Server | None, prefix: str, styles: list[str]) -> None:
        self._postgres, self._mysql, self.prefix = postgres, mysql, prefix
        names = {*styles, "onyx_sync"} - MYSQL
        self._names = [prefix + name for name in names]
        self.mysql_names = [prefix + name for name in set(styles) & MYSQL]

    def __enter__(self) -> Databases:
        self._execute("CREATE DATABASE {}")
        return self

    def __exit__(self, *_: object) -> None:
        self._execute("DROP DATABASE {}", " WITH (FORCE)")

    def _execute(self, statement: str, option: str = "") -> None:
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            for name in self._names:
                connection.execute(statement.format(name) + option)
        if self._mysql is not None:
            with self._to_mysql() as connection:
                for name in self.mysql_names:
                    connection.cursor().execute(statement.format(name))

    def _to_mysql(self) -> Any:
        assert self._mysql is not None
        server = urlsplit(self._mysql.url)
        return pymysql.connect(host=server.hostname, port=server.port, user=server.username, password=server.password)

    def environment(self) -> dict[str, str]:
        found = {"POSTGRES_URL": self._postgres.url.removesuffix("postgres") + self.prefix}
        return found if self._mysql is None else found | {"MYSQL_URL": self._mysql.url + self.prefix}

    def sessions(self) -> list[str]:
        """The databases that somebody is connected to."""
        with psycopg.connect(self._postgres.url) as connection:
            rows = connection.execute(
                "SELECT datname FROM pg_stat_activity "
                "WHERE starts_with(datname, %s) AND backend_type = 'client backend'",
                [self.prefix],
            ).fetchall()
        if self._mysql is not None:
            with self._to_mysql() as mysql, mysql.cursor() as cursor:
                cursor.execute("SELECT db FROM information_schema.processlist WHERE db LIKE %s", [self.prefix + "%"])
                rows += cursor.fetchall()
        return [name for (name,) in rows]


class Running:
    """A worker with the applications of one pool, and what it reports."""

    def __init__(self, worker: Worker, client: Celery, listener: Listener, databases: Databases) -> None:
        self.worker, self._client, self._listener, self.databases = worker, client, listener, databases

    def run(self, style: str, times: int = 1) -> list[int]:
        """The results of so many tasks, which were sent at once."""
        sent = [self._client.send_task(style, queue=self.worker.node) for _ in range(times)]
        return [result.get(timeout=DEADLINE) for result in sent]

    def figure(self, metric: Metric) -> dict[tuple[str, ...], Any]:
        """Of the newest snapshot, by labels."""
        snapshot = self._listener.snapshots.get(self.worker.node, {"counters": {}, "gauges": {}})
        tables = [snapshot["counters"], *snapshot["gauges"].values()]
        return {tuple(labels): value for table in tables for labels, value in table.get(metric.wire_name, [])}

    def stop(self) -> None:
        """Ends the worker; the newest snapshot is its last one then, in which everything is counted."""
        self.worker.stop()
        self._listener.last(self.worker.node)

    def pools(self) -> set[str]:
        """The pools of which a checkout was measured."""
        return {labels[-1].removeprefix(self.databases.prefix) for labels in self.figure(catalogue.POOL_WAIT)}


@pytest.fixture
def running(
    request: pytest.FixtureRequest,
    pool: str,
    stage: str,
    client: Celery,
    redis_server: Server,
    postgres_server: Server,
    tmp_path: Path,
) -> Iterator[Running]:
    styles = POOLS[pool]
    mysql = request.getfixturevalue("mariadb_server") if MYSQL & set(styles) else None
    node = f"{stage}_{pool.replace('-', '_')}"
    with (
        serve() as http,
        Databases(postgres_server, mysql, f"{node}_", styles) as databases,
        Listener(redis_server.url) as listener,
    ):
        environment = {"STAGE": stage, "STYLES": ",".join(styles), "REDIS_URL": redis_server.url, "HTTP_URL": http.url}
        options = ["-c", "2" if pool == "prefork" else "8", "-Q", f"{node}@test"]
        if pool == "celery-aio-pool":
            environment["CELERY_CUSTOM_WORKER_POOL"] = "celery_aio_pool.pool:AsyncIOPool"
            options += ["-P", "custom"]
        else:
            options += ["-P", pool]
        environment |= databases.environment()
        with worker(node, tmp_path / "log", environment, *options, app=APP) as one:
            yield Running(one, client, listener, databases)


@pytest.mark.parametrize("stage", ["before"])
def test_each_application_works_as_it_is_at_first_sight(running: Running, pool: str) -> None:
    right = [style for style in POOLS[pool] if style not in BROKEN]
    assert {style: running.run(style) for style in right} == {style: [42] for style in right}
    for style in BROKEN.intersection(POOLS[pool]):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # whichever the driver meets first
            running.run(style)
        assert loopwatch.classify(caught.value)


@pytest.mark.parametrize("stage", ["after"])
def test_after_adopting_no_task_fails_and_no_session_is_left(running: Running, pool: str) -> None:
    with ThreadPoolExecutor() as senders:
        results = dict(zip(POOLS[pool], senders.map(running.run, POOLS[pool], repeat(TASKS)), strict=True))
    assert results == {style: [42] * TASKS for style in POOLS[pool]}
    wait_until(lambda: running.pools() >= set(POOLS[pool]), running.pools)
    wait_until(lambda: not any(running.figure(catalogue.ENGINES_ORPHANED).values()))
    running.stop()
    assert running.figure(catalogue.LOOP_CONFLICTS) == {}
    wait_until(lambda: running.databases.sessions() == [], running.databases.sessions)
    assert [line for line in running.worker.log.splitlines() if any(word in line for word in COMPLAINTS)] == []
