"""What the monitor asks in the background, on real brokers and of real workers."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
from celery import Celery
from kombu import Connection, Queue
from kombu.pidbox import Mailbox
from structlog.testing import capture_logs

from app.demo.servers import Server
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.redis_address import parse_address
from loopwatch_monitor.intake.redis_link import connect
from loopwatch_monitor.intake.status import BrokerStatus
from loopwatch_monitor.polls.questions import Questions, make_questions
from loopwatch_monitor.polls.start import make_polls
from loopwatch_monitor.polls.thread import Poll
from loopwatch_monitor.settings import Settings
from loopwatch_monitor.state.queues import Depth
from loopwatch_monitor.state.workers import Answer
from tests.integration.monitor_hub import wrapped
from tests.integration.monitor_process import DEADLINE, running_monitor, running_worker, until
from tests.integration.redis_broker import running_broker
from tests.integration.redis_servers import redis_process
from tests.ports import refusing_port


def ask(url: str, **options: Any) -> Questions:
    return make_questions(url, options=options, ssl_options={})


@contextmanager
def answering(broker: str, name: str, **options: Any) -> Iterator[None]:
    """kombu's half of a worker's remote control, with answers of ours."""
    stopping, listening = threading.Event(), threading.Event()
    answers = {"active_queues": [{"name": "logs"}], "stats": {"pool": {"max-concurrency": 3}, "total": {"t": 5}}}

    def answer() -> None:
        with Connection(broker, transport_options=options) as connection, connection.channel() as channel:
            mailbox = Mailbox("celery", type="fanout", connection=connection)
            handlers = {command: lambda state, reply=reply: reply for command, reply in answers.items()}
            mailbox.Node(name, channel=channel, handlers=handlers).listen()
            while not stopping.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)
                listening.set()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        assert listening.wait(DEADLINE)
        yield
    finally:
        stopping.set()
        thread.join()


@contextmanager
def sender(broker: str, **conf: Any) -> Iterator[Celery]:
    with Celery(broker=broker, set_as_current=False) as app:
        app.conf.update(task_ignore_result=True, **conf)
        yield app


@pytest.mark.parametrize("steps", [[0, 3, 6, 9], [*range(10)], [0, 5]])
def test_all_priorities_of_a_queue_on_redis_are_summed(redis_url: str, steps: list[int]) -> None:
    with sender(redis_url, broker_transport_options={"priority_steps": steps}) as app:
        for priority in range(10):
            app.send_task("t", queue="logs", priority=priority)
        app.send_task("t", queue="content")
    # Nobody told the monitor of the application's steps.
    assert ask(redis_url).queues(["logs", "content", "none"]) == {
        "logs": Depth(10),
        "content": Depth(1),
        "none": Depth(0),
    }


def test_key_prefix_and_separator_are_the_applications(redis_url: str) -> None:
    options = {"global_keyprefix": "shop:", "sep": "|"}
    with sender(redis_url, broker_transport_options=options) as app:
        for priority in (0, 9):
            app.send_task("t", queue="logs", priority=priority)
    with redis.Redis.from_url(redis_url) as client:
        assert set(client.keys("shop:logs*")) == {b"shop:logs", b"shop:logs|9"}
    assert ask(redis_url, **options).queues(["logs"]) == {"logs": Depth(2)}
    assert ask(redis_url).queues(["logs"]) == {"logs": Depth(0)}


def test_a_key_that_is_no_list_costs_the_others_nothing(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("set", "x")
        client.lpush("logs", "m")
    assert ask(redis_url).queues(["set", "logs"]) == {"set": Depth(0), "logs": Depth(1)}


def test_a_name_that_nobody_can_write_and_many_queues_cost_the_others_nothing(redis_url: str) -> None:
    names = ["\ud800", *(f"q{number}" for number in range(250))]
    with redis.Redis.from_url(redis_url) as client:
        client.lpush("q249", "m", "m")
    found = ask(redis_url).queues(names)
    assert [*found] == names
    assert found["q249"] == Depth(2)


def test_a_queue_that_we_may_not_see_is_left_out_and_a_broker_that_tells_nothing_is_an_error(
    redis_server: Server, tmp_path: Path
) -> None:
    with running_broker(redis_server, tmp_path) as broker:
        broker.do("ACL", "SETUSER", "watcher", "on", ">x", "~logs*", "+llen")
        broker.do("LPUSH", "logs", "m")
        questions = ask(broker.url.replace("//", "//watcher:x@"))
        assert questions.queues(["logs", "secret"]) == {"logs": Depth(1)}
        with pytest.raises(hiredis.ReplyError, match="NOPERM"):
            questions.queues(["secret"])
        with pytest.raises(hiredis.ReplyError, match="NOPERM"):
            questions.workers()
        # As docs/monitor.md says.
        rights = ("~*.reply.celery.pidbox", "&/0.celery.pidbox", "+publish", "+del", "+rpush", "+expire", "+lpop")
        broker.do("ACL", "SETUSER", "watcher", *rights)
        with answering(broker.url, "w@h"):
            # A question ends two seconds after the last answer, and the second of the two may take longer.
            until(lambda: questions.workers() == {"w@h": Answer(("logs",), 3, 5)}, "both answers")


def test_options_that_cannot_work_are_said(redis_url: str) -> None:
    with pytest.raises(ValueError, match=r"priority_steps must be a JSON list such as \[0, 3, 6, 9\], not '0,3'"):
        ask(redis_url, priority_steps="0,3")


def test_messages_and_consumers_on_rabbitmq_and_a_missing_queue_kills_no_answer(rabbitmq_url: str) -> None:
    with Connection(rabbitmq_url) as other, other.channel() as opened:
        channel: Any = opened
        Queue("own", exclusive=True, channel=channel).declare()
        Queue("logs", durable=True, channel=channel).declare()
        channel.basic_consume("own", no_ack=True)
        with sender(rabbitmq_url) as app:
            for _ in range(3):
                app.send_task("t", queue="content")
        found = ask(rabbitmq_url).queues(["none", "logs", "own", "none", "content"])
    # An exclusive queue is its owner's secret.
    assert found == {"none": Depth(0, 0), "logs": Depth(0, 0), "content": Depth(3, 0)}


def test_workers_tell_their_queues_and_processes(redis_url: str, tmp_path: Path) -> None:
    """And the whole: queue of a task, workers and processes of each queue, on the page."""
    settings = Settings(broker_url=redis_url, queues=("idle",))
    hub = Hub(settings, status=BrokerStatus(up=True), version="1")
    with running_worker(redis_url, tmp_path, "one@here", "logs,content"):
        with sender(redis_url) as app:
            app.send_task("ok", queue="logs")

        def answered() -> bool:
            answer = ask(redis_url).workers().get("one@here", Answer())
            return (sorted(answer.queues or ()), answer.processes, answer.processed) == (["content", "logs"], 2, 1)

        until(answered, "the worker's whole answer")
        polls = make_polls(settings, hub)

        def told() -> bool:
            for poll in reversed(polls):
                poll.ask()
            return 'celery_active_process_count{queue_name="content"} 2\n' in hub.page().decode()

        until(told, "the worker's whole answer on the page")
    page = hub.page().decode()
    for line in (
        'celery_active_worker_count{queue_name="logs"} 1',
        'celery_active_process_count{queue_name="content"} 2',
        'celery_active_process_count{queue_name="idle"} 0',
        'celery_queue_length{queue_name="logs"} 0',
        'celery_queue_length{queue_name="idle"} 0',
        'celery_worker_up{hostname="one@here"} 1',
        'loopwatch_monitor_poll_failures_total{poll="queues"} 0',
    ):
        assert f"{line}\n" in page


@pytest.mark.parametrize("options", [{}, {"fanout_prefix": "/mine/{db}."}, {"fanout_prefix": False}], ids=str)
def test_kombus_channels_keys_and_database(redis_url: str, options: dict[str, Any]) -> None:
    """Nothing is left behind but a list that expires; answers that come late would be in it."""
    options = {"global_keyprefix": "shop:", **options}
    tries = []

    def answered() -> bool:
        tries.append(ask(redis_url, **options))
        return tries[-1].workers() == {"w@h": Answer(("logs",), 3, 5)}

    with answering(redis_url, "w@h", **options):
        until(answered, "both answers")
        assert ask(redis_url).workers() == {}
    with redis.Redis.from_url(redis_url) as client:
        left = {key for key in client.scan_iter() if not key.startswith(b"shop:_kombu.binding.celery.pidbox")}
        assert {key.endswith(b".reply.celery.pidbox") for key in left} == {True}
        assert {client.ttl(key) > 0 for key in left} == {True}
        # Of the tries before the last, answers that came too late.
        assert len(left) == len(tries) + 1
        assert sum(client.llen(key) == 1 for key in left) >= 2


@pytest.mark.timeout(240)
def test_a_monitor_on_redis_is_small_and_carries_neither_celery_nor_redis_py(redis_url: str, tmp_path: Path) -> None:
    program = (
        sys.executable,
        "-c",
        # It ends by that, and not by coming back.
        (
            "import os, sys; leave = os._exit; os._exit = lambda code: (print(*sys.modules, flush=True), leave(code)); "
            "from loopwatch_monitor.command import main; main()"
        ),
    )
    with (
        answering(redis_url, "w@h"),
        running_monitor(redis_url, tmp_path, "--queues", "idle", program=program) as monitor,
    ):
        asked = {"celery_worker_up": {("w@h",): 1.0}, "celery_queue_length": {("idle",): 0.0, ("logs",): 0.0}}
        # The workers are asked each minute: what came too late for the first question is the second one's.
        until(lambda: all(monitor.series(name) == told for name, told in asked.items()), "both answers", seconds=150)
        resident = monitor.value("process_resident_memory_bytes")
    modules = {name.partition(".")[0] for name in monitor.log.read_text().splitlines()[-1].split()}
    assert {"loopwatch_monitor", "aiohttp", "hiredis"} <= modules
    assert not modules & {"celery", "kombu", "amqp", "redis"}
    assert resident < 60e6


@contextmanager
def hearing(url: str, answer: Callable[[redis.Redis, str], object], *, endlessly: bool = False) -> Iterator[None]:
    """Answers questions to the workers in a thread, by pushing what one likes to the list that the last of them names:
    once, or again and again."""
    over = threading.Event()
    with redis.Redis.from_url(url) as client, client.pubsub() as heard:
        heard.psubscribe("*.celery.pidbox")
        until(lambda: heard.get_message() is not None, "the subscription")

        def hear() -> None:
            key = ""
            while not over.is_set():
                message = heard.get_message(timeout=0 if endlessly and key else 0.05)
                if message is not None:
                    question = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
                    key = question["reply_to"]["routing_key"]
                if key and (message is not None or endlessly):
                    answer(client, key)

        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


GOOD = wrapped(json.dumps({"w@h": [{"name": "logs"}]}).encode())


def test_answers_that_cannot_be_read_cost_the_others_nothing(redis_url: str) -> None:
    bad = [b"", b"[", wrapped(b"{"), wrapped(b"[" * 100_000), wrapped(b"\xff"), b'{"body": 1}', b"\x80\x02}q\x00."]
    with hearing(redis_url, lambda client, key: client.lpush(key, *bad, GOOD)):
        # An answer that comes too late for a question is none.
        until(lambda: ask(redis_url).workers() == {"w@h": Answer(("logs",))}, "the good answer")


def test_answers_without_end_are_not_gathered_for_ever(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwatch_monitor.polls.redis.GATHER_SECONDS", 0.5)
    found: list[dict[str, Answer]] = []

    def gather() -> None:
        while not any(found):  # the answers may begin too late for a question
            found.append(ask(redis_url).workers())

    asking = threading.Thread(target=gather, daemon=True)
    with hearing(redis_url, lambda client, key: client.lpush(key, GOOD), endlessly=True):
        asking.start()
        asking.join(DEADLINE)
    assert found
    assert found[-1] == {"w@h": Answer(("logs",))}


def test_an_answer_without_end_is_refused(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwatch_monitor.intake.redis_link.LONGEST_ANSWER", 100_000)
    with redis.Redis.from_url(redis_url) as client:
        client.set("long", b"x" * 1_000_000)
    with closing(connect(parse_address(redis_url))) as link:
        assert link.ask("STRLEN", "long") == 1_000_000
        with pytest.raises(hiredis.ProtocolError, match="more than 100000 bytes"):
            link.ask("GET", "long")


def test_consumers_on_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    with running_worker(rabbitmq_url, tmp_path, "one@here", "logs"):
        assert ask(rabbitmq_url).queues(["logs"]) == {"logs": Depth(0, 1)}
        until(lambda: "one@here" in ask(rabbitmq_url).workers(), "the worker's answer")


def test_a_question_that_fails_keeps_the_last_answer_and_tells_no_password() -> None:
    with refusing_port() as port:
        url = f"redis://:secret@127.0.0.1:{port}/0"
        hub = Hub(Settings(broker_url=url), status=BrokerStatus(), version="1")
        hub.measured({"q": Depth(3)})
        queues, workers = make_polls(Settings(broker_url=url), hub)
        with capture_logs() as logged:
            for poll in (queues, workers, queues):
                poll.ask()
    page = hub.page().decode()
    assert 'celery_queue_length{queue_name="q"} 3\n' in page
    assert 'loopwatch_monitor_poll_failures_total{poll="queues"} 2\n' in page
    assert 'loopwatch_monitor_poll_failures_total{poll="workers"} 1\n' in page
    # Once, however often it fails.
    assert [(line["event"], line["poll"]) for line in logged] == [("poll_failed", "queues"), ("poll_failed", "workers")]
    assert "secret" not in str(logged)


def test_a_server_that_repeats_what_it_is_asked_makes_no_question_tell_a_sentinels_password(tmp_path: Path) -> None:
    """One that does not know AUTH answers with its arguments."""
    options = {"master_name": "main", "sentinel_kwargs": {"password": "secret"}}
    with redis_process(tmp_path / "redis", 'rename-command AUTH ""') as server, capture_logs() as logged:
        settings = Settings(broker_url=f"sentinel://127.0.0.1:{server.port}", broker_transport_options=options)
        for poll in make_polls(settings, Hub(settings, status=BrokerStatus(), version="1")):
            poll.ask()
    assert len(logged) == 2
    assert all("args beginning with: '**'" in line["error"] for line in logged)


def asked(url: str) -> None:
    ask(url).queues(["q"])


def twice(failures: list[int]) -> bool:
    return len(failures) >= 2


def test_a_broker_that_hangs_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwatch_monitor.polls.kombu.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("loopwatch_monitor.intake.redis_link.CONNECT_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for scheme in ("redis", "amqp"):
            url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/"
            failures: list[int] = []
            poll = Poll(
                "queues",
                url=url,
                seconds=0.01,
                ask=partial(asked, url),
                failed=partial(failures.append, 1),
            )
            poll.start()
            until(partial(twice, failures), f"{scheme}'s failures")
            poll.close()


def test_a_new_worker_is_asked_soon() -> None:
    asked: list[int] = []
    strangers = {"new@here"}
    poll = Poll(
        "workers",
        url="memory://",
        seconds=3600.0,
        ask=lambda: asked.append(1),
        failed=lambda: None,
        hurry=lambda: bool(strangers),
    )
    poll.start()
    until(lambda: len(asked) >= 2, "the second question")
    poll.close()
