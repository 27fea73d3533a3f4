"""The workflow as a state machine: which state may follow which. Pure; the repository enforces it in SQL."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ACTIVE", "State", "sources"]


class State(StrEnum):
    """Where a roadmap is on its way."""

    PENDING = "pending"
    GENERATING_OUTLINE = "generating_outline"
    WAITING_FOR_REVIEW = "waiting_for_review"
    RESUMING = "resuming"
    GENERATING_CONTENT = "generating_content"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """True when nothing follows."""
        return not FOLLOWERS[self]


FOLLOWERS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.GENERATING_OUTLINE, State.FAILED}),
    State.GENERATING_OUTLINE: frozenset({State.WAITING_FOR_REVIEW, State.FAILED}),
    # Not to FAILED: while a human thinks nothing runs that could fail.
    State.WAITING_FOR_REVIEW: frozenset({State.RESUMING}),
    # Back, when the review could not be passed on to the workers.
    State.RESUMING: frozenset({State.GENERATING_CONTENT, State.WAITING_FOR_REVIEW, State.FAILED}),
    State.GENERATING_CONTENT: frozenset({State.COMPLETED, State.FAILED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
}

ACTIVE = frozenset(state for state in State if State.FAILED in FOLLOWERS[state])
"""States in which a worker is at work, or should be."""


def sources(target: State) -> frozenset[State]:
    """The states that ``target`` may follow."""
    return frozenset(state for state, followers in FOLLOWERS.items() if target in followers)
