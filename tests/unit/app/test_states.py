"""The workflow's state machine."""

from __future__ import annotations

from app.services.states import ACTIVE, FOLLOWERS, State, sources


def test_every_state_can_be_reached_from_the_beginning_and_reaches_an_end() -> None:
    def reached(start: State) -> set[State]:
        seen, todo = set[State](), [start]
        while todo:
            state = todo.pop()
            if state not in seen:
                seen.add(state)
                todo += FOLLOWERS[state]
        return seen

    assert reached(State.PENDING) == set(State)
    for state in State:
        assert {end for end in reached(state) if end.final}


def test_nothing_follows_an_end() -> None:
    assert {state for state in State if state.final} == {State.COMPLETED, State.FAILED}


def test_a_review_is_taken_once() -> None:
    assert sources(State.RESUMING) == {State.WAITING_FOR_REVIEW}
    assert State.RESUMING not in sources(State.RESUMING)


def test_whatever_works_can_fail_and_a_waiting_human_cannot() -> None:
    assert sources(State.FAILED) == ACTIVE
    assert {State.PENDING, State.GENERATING_OUTLINE, State.RESUMING, State.GENERATING_CONTENT} == ACTIVE


def test_content_is_complete_only_after_it_was_generated() -> None:
    assert sources(State.COMPLETED) == {State.GENERATING_CONTENT}
