"""The monitor's settings: what cannot work is refused in words that name the option and the fix, never a password."""

from __future__ import annotations

from typing import Any

import pytest

from loopwatch_monitor.logs import LEVELS
from loopwatch_monitor.settings import SettingError, Settings, parse_buckets, parse_options, parse_pairs

URL = "redis://localhost/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://:p%40ss@host:6380/3?ssl_cert_reqs=none",
        "amqp://user:password@host:5672//",
        "amqp://a;amqp://b",
        "sentinel://host:26379",
        "redis+socket:///run/redis.sock?virtual_host=1",
        "redis+socket:///run/redis@6.sock",
        "redis://:p@ss@host",
        "memory://",
    ],
)
def test_brokers_that_celery_speaks_to(url: str) -> None:
    assert Settings(broker_url=url).broker_url == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "is missing"),
        ("localhost:6379", "has no scheme"),
        ("localhost", "has no scheme"),
        ("redis:secret", "has no scheme"),
        ("http2://:secret@host", "is no transport"),
        ("kafka://:secret@host", "needs a package that is missing"),
        ("redis://:secret@host:port/0", "no valid host and port"),
        ("redis://:secret@host:99999/0", "no valid host and port"),
        ("amqp://user:secret@a;amqp://user:secret@b:x", "no valid host and port"),
        ("redis://:pass/secret@host:6379/0", r"no valid host and port; .* %2F"),
        ("redis://:12/secret@host:6379/0", r"has an @ behind its host and port; .* %2F"),
        ("amqp://user:12#secret@host", r"has an @ behind its host and port; .* %23"),
    ],
)
def test_urls_that_cannot_be_a_brokers(url: str, problem: str) -> None:
    with pytest.raises(SettingError, match=problem) as caught:
        Settings(broker_url=url)
    assert caught.value.option == "--broker-url"
    assert "LOOPWATCH_BROKER_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        ({"host": ""}, "--host"),
        ({"port": -1}, "--port"),
        ({"port": 65536}, "--port"),
        ({"log_level": "LOUD"}, "--log-level"),
        ({"worker_timeout": -1}, "--worker-timeout"),
        ({"worker_timeout": float("nan")}, "--worker-timeout"),
        ({"purge_offline_worker_metrics": float("inf")}, "--purge-offline-worker-metrics"),
        ({"default_queue_name": ""}, "--default-queue-name"),
        ({"event_exchange": ""}, "--event-exchange"),
        ({"event_buffer_bytes": 1000}, "--event-buffer-bytes"),
        ({"metric_prefix": "1-"}, "--metric-prefix"),
        ({"static_labels": {"a-b": "x"}}, "--static-label"),
        ({"static_labels": {"__a": "x"}}, "--static-label"),
        ({"static_labels": {"hostname": "x"}}, "--static-label"),
        ({"static_labels": {"le": "x"}}, "--static-label"),
    ],
)
def test_settings_that_cannot_work(setting: dict[str, Any], option: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings(broker_url=URL, **setting)
    assert str(caught.value).startswith(f"{option} (LOOPWATCH_")


@pytest.mark.parametrize("level", ["debug", "INFO", "TRACE", "SUCCESS", "WARNING", "ERROR", "CRITICAL"])
def test_levels_of_the_log_are_celery_exporters(level: str) -> None:
    assert Settings(broker_url=URL, log_level=level).log_level.upper() in LEVELS


def test_an_empty_prefix_is_one() -> None:
    assert Settings(broker_url=URL, metric_prefix="").metric_prefix == ""


def test_buckets() -> None:
    assert parse_buckets("--buckets", "0.1, 0.5,2,+Inf") == (0.1, 0.5, 2.0)


@pytest.mark.parametrize("text", ["", "a", "1,1", "2,1", "1,nan", "inf", "1,,2"])
def test_buckets_that_are_none(text: str) -> None:
    with pytest.raises(SettingError, match="rising numbers"):
        parse_buckets("--buckets", text)


def test_pairs_and_options() -> None:
    assert parse_pairs("--static-label", ("a=b", "c=d=e", "f=")) == {"a": "b", "c": "d=e", "f": ""}
    assert parse_options("--broker-transport-option", ("a=1", "b=0.5", "c=true", "d=x", 'e={"f": 1}', "g={db}")) == {
        "a": 1, "b": 0.5, "c": True, "d": "x", "e": {"f": 1}, "g": "{db}",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a", "=b", ""])
def test_pairs_that_are_none(text: str) -> None:
    with pytest.raises(SettingError, match="KEY=VALUE"):
        parse_pairs("--static-label", (text,))
