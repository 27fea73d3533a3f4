"""The errors survive pickling, by which Celery takes a task's exception from a pool child to its parent."""

from __future__ import annotations

import pickle

import pytest

from loopwatch.errors import LoopConflictError, LoopwatchError, MissingExtraError


@pytest.mark.parametrize(
    "error",
    [
        LoopConflictError("no", resource="asyncpg", kind="cross_loop", owner="A", user="B", made_at="here"),
        MissingExtraError("observe", "sqlalchemy", "sqlalchemy"),
    ],
)
def test_an_error_survives_pickling(error: LoopwatchError) -> None:
    error._loopwatch_counted = True  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert {**error.__dict__, **copy.__dict__} == error.__dict__
