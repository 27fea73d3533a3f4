"""The queue of a task, from what its message tells."""
# kombu is typed in parts.
# mypy: disable-error-code="no-untyped-call,attr-defined"

from __future__ import annotations

import re

import pytest
from celery import Celery
from celery.concurrency.prefork import TaskPool
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from loopwatch.celery.identity import MAX_KNOWN, UNKNOWN, Queues, pool_name, slot, topic_matches

QUEUES = [
    Queue("logs", Exchange("direct"), "rk.logs"),
    Queue("default", Exchange("direct"), "rk.default"),
    Queue("tq", Exchange("topics", type="topic"), "content.#"),
    Queue("all", Exchange("everybody", type="fanout"), "to.all"),
    Broadcast("tasks"),
    Queue("several", bindings=[binding(Exchange("direct"), "rk.one"), binding(Exchange("direct"), "rk.two")]),
]


def _queues(*consumed: str) -> Queues:
    app = Celery("identity")
    app.conf.task_queues = QUEUES
    if consumed:
        app.amqp.queues.select(list(consumed))
    return Queues(app)


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        ("direct", "rk.logs", "logs"),
        ("", "logs", "logs"),
        (None, "logs", "logs"),
        ("topics", "content.a.b", "tq"),
        ("topics", "content", "tq"),
        ("topics", "other", UNKNOWN),
        ("everybody", "whatever", "all"),
        ("direct", "rk.two", "several"),
        ("celery_delayed_delivery", "0." * 26 + "1.0.content.a", "tq"),
        ("celery_delayed_delivery", "0." * 26 + "1.0.content.#", "tq"),  # sent to the queue: by its own pattern
        ("celery_delayed_delivery", "0." * 26 + "1.0.to.all", "all"),
        ("celery_delayed_delivery", "0." * 26 + "1.0.rk.logs", UNKNOWN),  # direct exchanges are not delayed
        ("prefix_celery_delayed_delivery", "0." * 26 + "1.0.content.a", "tq"),
        ("direct", "0.1.rk.default", UNKNOWN),
        ("tasks", "", "tasks"),
        ("direct", "an attacker's", UNKNOWN),
        ("elsewhere", "rk.logs", UNKNOWN),
        (None, None, UNKNOWN),
    ],
)
def test_a_route_leads_to_its_queue(exchange: str | None, key: str | None, queue: str) -> None:
    assert _queues().of({"exchange": exchange, "routing_key": key}) == queue


def test_a_worker_of_one_queue_knows_it() -> None:
    assert _queues("logs").of({"exchange": "elsewhere", "routing_key": "x"}) == "logs"
    assert _queues("logs").of(None) == "logs"


def test_a_broadcast_is_called_by_its_name_not_by_that_of_its_latest_queue() -> None:
    queues = _queues("tasks")
    assert queues.consumed() == ["tasks"]
    assert queues.of({"exchange": "elsewhere", "routing_key": "x"}) == "tasks"


def test_a_queue_that_the_worker_consumes_goes_before_another_with_the_same_route() -> None:
    app = Celery("identity")
    app.conf.task_queues = [Queue("a", Exchange("direct"), "same"), Queue("b", Exchange("direct"), "same")]
    assert Queues(app).of({"exchange": "direct", "routing_key": "same"}) == UNKNOWN
    app.amqp.queues.select(["b"])
    assert Queues(app).of({"exchange": "direct", "routing_key": "same"}) == "b"


def test_no_routing_key_becomes_a_label_and_memory_is_bounded() -> None:
    queues = _queues()
    names = {queues.of({"exchange": "topics", "routing_key": f"content.{number}"}) for number in range(3 * MAX_KNOWN)}
    assert names == {"tq"}
    assert len(queues._known) == MAX_KNOWN


words = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4)
patterns = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=4)


@settings(deadline=None)
@given(patterns, words)
def test_topics_match_as_a_pattern_of_words_does(pattern: list[str], key: list[str]) -> None:
    # Each word with its dot, so that "#" may stand for none.
    expression = "".join({"*": r"[ab]\.", "#": r"(?:[ab]\.)*"}.get(word, word + r"\.") for word in pattern)
    assert topic_matches(".".join(pattern), ".".join(key)) == bool(re.fullmatch(expression, ".".join(key) + "."))


def test_names() -> None:
    assert pool_name(TaskPool) == "prefork"
    assert pool_name("threads") == "threads"
    assert slot() == 0
