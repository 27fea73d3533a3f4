"""`tolerated`: what it swallows, what it lets pass, and how both are counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from loopwatch.conflicts import count_once
from loopwatch.errors import ConfigurationError
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from loopwatch.tolerate import Failure, tolerated

CONFLICT = "Event loop is closed"
CONFLICT_LABELS = ("content", "app.write", "unknown", "closed_loop", "exception")


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    STATS.reset()
    token = current_task.set(TaskContext("content", "app.write"))
    yield
    current_task.reset(token)
    STATS.reset()


def _failures() -> dict[str, float]:
    rows = STATS.counters()[catalogue.NOTIFICATION_FAILURES.wire_name]
    assert all(labels[:2] == ("content", "notify") for labels in rows)
    return {labels[2]: value for labels, value in rows.items() if isinstance(value, (int, float))}


def _tried() -> float:
    return STATS.value(catalogue.NOTIFICATIONS, ("content", "notify"))


async def test_success_is_counted_and_the_reasons_are_born_at_0() -> None:
    async with tolerated("notify") as notify:
        pass
    assert (notify.failed, notify.reason, notify.error) == (False, None, None)
    assert _tried() == 1
    assert _failures() == {"timeout": 0, "loop_conflict": 0, "error": 0}


async def test_an_error_is_swallowed_warned_about_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("no")
    async with tolerated("notify") as notify:
        raise error
    assert (notify.failed, notify.reason, notify.error) == (True, "error", error)
    assert _failures() == {"timeout": 0, "loop_conflict": 0, "error": 1}
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "notify failed (error): no")
    ]


async def test_our_own_timeout() -> None:
    async with tolerated("notify", timeout=0.01) as notify:
        await asyncio.Event().wait()
    assert notify.reason == "timeout"
    assert isinstance(notify.error, TimeoutError)
    assert _failures() == {"timeout": 1, "loop_conflict": 0, "error": 0}
    # The cancellation was ours alone.
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_timeout_of_the_operation_s_own() -> None:
    async with tolerated("notify") as notify:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    assert notify.reason == "timeout"


async def test_a_client_that_turns_our_cancellation_into_its_own_error() -> None:
    async with tolerated("notify", timeout=0.01) as notify:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("interrupted") from None
    assert notify.reason == "timeout"


async def test_no_timeout() -> None:
    async with tolerated("notify", timeout=None) as notify:
        await asyncio.sleep(0)
    assert not notify.failed


async def test_cancellation_from_outside_passes() -> None:
    reached = asyncio.Event()

    async def body() -> None:
        async with tolerated("notify"):
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _tried() == 1
    assert sum(_failures().values()) == 0


async def test_an_outer_timeout_passes() -> None:
    with pytest.raises(TimeoutError):  # noqa: PT012  # where the timeout surfaces is the point
        async with asyncio.timeout(0.01):
            async with tolerated("notify", timeout=60):
                await asyncio.Event().wait()
    assert sum(_failures().values()) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
async def test_what_ends_the_process_passes(error: BaseException) -> None:
    manager = tolerated("notify")
    await manager.__aenter__()
    assert not await manager.__aexit__(type(error), error, None)
    assert sum(_failures().values()) == 0


async def test_a_soft_time_limit_is_the_task_s_own() -> None:
    from billiard.exceptions import SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        async with tolerated("notify"):
            raise SoftTimeLimitExceeded
    assert sum(_failures().values()) == 0


async def test_a_loop_conflict_is_counted_as_one_even_when_it_is_raised_again_elsewhere() -> None:
    async with tolerated("notify") as notify:
        raise RuntimeError(CONFLICT)
    assert notify.reason == "loop_conflict"
    assert _failures() == {"timeout": 0, "loop_conflict": 1, "error": 0}
    assert notify.error is not None
    again = ValueError(f"could not notify: {notify.error}")
    again.__cause__ = notify.error
    count_once(again, source="exception")
    assert STATS.value(catalogue.LOOP_CONFLICTS, CONFLICT_LABELS) == 1


async def test_the_conflict_that_is_being_handled_is_not_the_notification_s() -> None:
    """A task that failed with a conflict notifies of it: its conflict is its own, and counted when the task fails."""
    try:
        raise RuntimeError(CONFLICT)
    except RuntimeError as error:
        async with tolerated("notify") as refused:
            await asyncio.sleep(0)
            raise ConnectionRefusedError("nobody listens")  # noqa: B904  # the implicit context is the point
        async with tolerated("notify") as conflict:
            raise RuntimeError(CONFLICT)  # noqa: B904
        count_once(error, source="exception")
    assert refused.reason == "error"
    assert conflict.reason == "loop_conflict"
    assert _failures() == {"timeout": 0, "loop_conflict": 1, "error": 1}
    assert STATS.value(catalogue.LOOP_CONFLICTS, CONFLICT_LABELS) == 2


async def test_on_failure_stands_in_for_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Failure] = []
    error = ValueError("no")
    async with tolerated("notify", timeout=2, on_failure=seen.append):
        raise error
    assert seen == [Failure("notify", "error", error, 2)]
    assert caplog.records == []


async def test_an_on_failure_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Failure) -> None:
        raise KeyError("broken")

    async with tolerated("notify", on_failure=broken) as notify:
        raise ValueError("no")
    assert notify.failed
    assert "on_failure" in caplog.text


@pytest.mark.parametrize(("operation", "timeout"), [("", 5), ("notify", 0), ("notify", -1), ("notify", float("nan"))])
def test_bad_arguments_are_refused_at_construction(operation: str, timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="operation" if not operation else "timeout"):
        tolerated(operation, timeout=timeout)


async def test_one_object_one_operation() -> None:
    manager = tolerated("notify")
    async with manager:
        pass
    with pytest.raises(RuntimeError, match="make a new one"):
        async with manager:
            pass
