"""Passwords in what we log: an operation's error, a source line, a client that hides its sockets."""

from __future__ import annotations

import asyncio
import logging

import pytest

from loopwatch.conflicts import classify
from loopwatch.errors import ConfigurationError
from loopwatch.per_loop import PerLoop, sweep
from loopwatch.redact import redact
from loopwatch.tolerate import tolerated


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("redis://db:6379/0?db=1&password=se:cret&x=1", "redis://db:6379/0?db=1&password=***&x=1"),
        ("host=db user=app password=secret dbname=x", "host=db user=app password=*** dbname=x"),
        (
            "    pool = Redis(host='db', DB_PASSWORD = 'secret', db=1)",
            "    pool = Redis(host='db', DB_PASSWORD = '***', db=1)",
        ),
        ("{'user': 'app', 'password': 'secret'}", "{'user': 'app', 'password': '***'}"),
        ("DRIVER=x;PWD=secret;UID=app", "DRIVER=x;PWD=***;UID=app"),
        ('password authentication failed for user "app"', 'password authentication failed for user "app"'),
        ("a password: at least 8 characters", "a password: at least 8 characters"),
    ],
)
def test_what_is_called_a_password_is_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean


async def test_the_error_of_a_tolerated_operation_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    async with tolerated("notify"):
        raise ConnectionError("no answer from redis://:secret@db:6379/0")
    assert "notify failed (error)" in caplog.text
    assert "ConnectionError: no answer from redis://***@db:6379/0" in caplog.text
    assert "secret" not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)  # which a handler would print as it is


def test_a_client_that_hides_its_sockets_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    def hidden(_: object) -> list[object]:
        raise AttributeError("no _transport in redis://:secret@db")

    things = PerLoop(list, name="hidden", sockets=hidden)  # type: ignore[arg-type, var-annotated]

    async def use() -> None:
        things.get()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
    with caplog.at_level(logging.WARNING, "loopwatch"):
        sweep()
    assert "no _transport in redis://***@db" in caplog.text
    assert "secret" not in caplog.text


def test_an_exception_whose_attributes_cannot_be_read_is_classified() -> None:
    class OddError(RuntimeError):
        @property
        def exc(self) -> object:
            raise KeyError("exc")

    conflict = classify(OddError("Event loop is closed"))
    assert conflict is not None
    assert conflict.kind == "closed_loop"


@pytest.mark.parametrize("operation", [1, None, b"notify"])
def test_an_operation_whose_name_is_no_text_is_refused_before_it_is_tried(operation: object) -> None:
    with pytest.raises(ConfigurationError, match="operation must be a name"):
        tolerated(operation)  # type: ignore[arg-type]
