"""What workers answer when they are asked: read where it makes sense, and harmless where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from loopwatch_monitor.polls.answers import Answers
from loopwatch_monitor.state.labels import cut
from loopwatch_monitor.state.workers import MAX_HOSTS, Answer

QUEUES = [{"name": "logs", "exchange": {"name": "logs"}}, {"name": "content"}, {"name": "logs"}]
STATS = {"pool": {"max-concurrency": 2}, "total": {"a": 3, "b": 4}, "pid": 1}
WHOLE = Answer(("logs", "content"), 2, 7)


def taken(*replies: Any) -> Answer:
    answers = Answers()
    for reply in replies:
        answers.take({"w@h": reply})
    return answers.by_worker["w@h"]


def test_both_answers_of_a_worker_in_any_order() -> None:
    assert taken(QUEUES, STATS) == taken(STATS, QUEUES) == WHOLE


def test_a_worker_that_cannot_say_keeps_what_it_said() -> None:
    assert taken(QUEUES, STATS, {"error": "KeyError('x')"}) == WHOLE
    assert taken({"error": "unknown command"}) == Answer()


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ([], Answer(())),
        ([1, None, {}, {"name": None}, {"name": ""}, {"name": "q" * 300}], Answer((cut("q" * 300),))),
        ([{"name": f"q{number}"} for number in range(1000)], Answer(tuple(f"q{number}" for number in range(100)))),
        ({"pool": {"max-concurrency": "2"}, "total": {"a": 1, "b": "x"}}, Answer()),
        ({"pool": [], "total": 3}, Answer()),
        ({"pool": {"max-concurrency": -1}, "total": {"a": 2**60}}, Answer()),
        ({"total": {}}, Answer(processed=0)),
        ("text", Answer()),
        (None, Answer()),
    ],
)
def test_an_answer_that_is_not_what_it_should_be(reply: Any, answer: Answer) -> None:
    assert taken(reply) == answer


@pytest.mark.parametrize("body", [None, [], "w@h", 1, {"": QUEUES}, {}])
def test_a_message_that_is_no_answer(body: Any) -> None:
    answers = Answers()
    answers.take(body)
    assert answers.by_worker == {}


def test_whoever_answers_under_many_names_takes_no_more_room_than_the_workers_have() -> None:
    answers = Answers()
    answers.take({f"w{number}@h": QUEUES for number in range(MAX_HOSTS + 10)})
    assert len(answers.by_worker) == MAX_HOSTS
