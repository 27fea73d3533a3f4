"""The panels that show nothing while the application is at work with users and three troubles, and why."""

from __future__ import annotations

__all__ = ["BY_CHANCE", "NONE", "RIGHTLY_EMPTY", "UNBORN", "UNSET"]

NONE = "none, as it should be: the series are there, at 0"
RIGHTLY_EMPTY = {
    "loop-conflicts: Loops beyond the plan A": NONE,
    "monitor: Reconnects A": NONE,
    "monitor: Lost events, by reason A": NONE,
    "monitor: Lost events, by reason B": NONE,
    "monitor: Malformed events, by reason A": NONE,
    "monitor: Duplicate node names A": NONE,
    "monitor: Workers without task events A": "every worker sends them",
    "monitor: Workers with old snapshots A": "every worker sends them",
    "monitor: Evicted entries and dropped series A": NONE,
    "monitor: Evicted entries and dropped series B": "no family is full, and without a drop it has no series",
    "pools: Timeouts A": NONE,
    "pools: Leaks A": "the application sets no leak_threshold",
    "tasks: Tasks that ended, by outcome C": "the application rejects no task",
    "tasks: Retries and revocations A": "the application retries no task",
    "tasks: Retries and revocations B": "nobody revokes a task",
    "tasks: Workers and slots, by queue C": "Redis does not know its consumers; RabbitMQ does",
    "tasks: Started without task-sent A": "the application sets task_send_sent_event",
}
"""Queries (dashboard, panel, letter) that are empty here, and why."""
UNBORN = "a worker may get no processor to send it; without a drop it has no series"
BY_CHANCE = {
    "loop-conflicts: Stalls A": "a loop may stand still where other tests have the processors",
    "monitor: Background polls without an answer A": "an answer may come too late there",
    "monitor: Telemetry dropped, by reason A": UNBORN,
}
"""Those that may be empty or not."""
UNSET = {"release"}
"""Labels that the application leaves empty."""
