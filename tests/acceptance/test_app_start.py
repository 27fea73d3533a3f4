"""What cannot work is refused at start, in one line and with exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.stack import Stack

pytestmark = pytest.mark.timeout(300)

NOWHERE = "127.0.0.1:9"  # the port of "discard": nobody listens there


@pytest.fixture
def stack(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Stack]:
    with Stack.running(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url) as stack:
        yield stack


@pytest.mark.parametrize(
    ("role", "setting", "value", "says"),
    [
        ("api", "DATABASE_URL", f"postgresql+asyncpg://app:secret@{NOWHERE}/app", "app:***@127.0.0.1"),
        ("celery_logs", "DATABASE_URL", "mysql://app:secret@db/app", "set it to an address such as postgresql+asyncpg"),
        ("celery_content", "DATABASE_URL", "", "it is not set"),
        ("api", "CELERY_BROKER_URL", f"redis://:secret@{NOWHERE}/0", "cannot connect to redis://:**@127.0.0.1"),
        ("celery_workflow", "CELERY_BROKER_URL", "nonsense://:secret@127.0.0.1/0", "cannot connect to nonsense://"),
        ("api", "REDIS_URL", "http://secret", "redis://127.0.0.1:6379/0"),
        ("celery_logs", "CELERY_LOGS_CONCURRENCY", "many", "a whole number of processes, 1 or more"),
        ("api", "WEB_CONCURRENCY", "0", "a whole number of processes, 1 or more"),
        ("api", "APP_RESOURCES", "best", "set it to loop_aware or global"),
        ("api", "DATABASE_MAX_CONNECTIONS", "4", "leaves 3"),
    ],
)
def test_a_role_that_cannot_work_says_so_in_one_line(
    stack: Stack, role: str, setting: str, value: str, says: str
) -> None:
    process = stack.role(role, **{setting: value})
    assert process.process.wait(120) == 2, process.output
    [line] = process.output.splitlines()
    assert setting in line
    assert says in line
    assert "secret" not in line


def test_an_unknown_role_is_refused(stack: Stack) -> None:
    process = stack.role("everything")
    assert process.process.wait(120) == 2
    assert process.output.startswith("usage:")


def test_tables_are_made_by_several_at_once(stack: Stack) -> None:
    runs = [stack.start("create", "python", "-m", "app.db.create") for _ in range(3)]
    assert [run.process.wait(120) for run in runs] == [0, 0, 0], [run.output for run in runs]
