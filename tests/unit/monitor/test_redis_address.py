"""The broker's URL and transport options, as kombu reads them."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.utils.url import sanitize_url, url_to_parts

from loopwatch_monitor.intake.redis_address import Endpoint, is_redis, parse_address
from loopwatch_monitor.intake.urls import masked, passwords, split


@pytest.mark.parametrize(
    ("url", "endpoint", "database"),
    [
        ("redis://", Endpoint(host="127.0.0.1", port=6379), 0),
        ("redis://h", Endpoint(host="h", port=6379), 0),
        ("redis://h:1/3", Endpoint(host="h", port=1), 3),
        ("redis://h:1//", Endpoint(host="h", port=1), 0),
        ("redis://:p%40%2F@h/1", Endpoint(host="h", port=6379, password="p@/"), 1),
        ("redis://u%3A:p@h", Endpoint(host="h", port=6379, username="u:", password="p"), 0),
        ("redis://[::1]:7/2", Endpoint(host="::1", port=7), 2),
        ("redis+socket:///run/r.sock", Endpoint(path="/run/r.sock"), 0),
        ("redis+socket:///run/r.sock?virtual_host=4", Endpoint(path="/run/r.sock"), 4),
        ("redis+socket://:p@/run/r.sock", Endpoint(path="/run/r.sock", password="p"), 0),
    ],
)
def test_urls(url: str, endpoint: Endpoint, database: int) -> None:
    address = parse_address(url)
    pattern, fanout = f"/{database}.celeryev/*", (f"/{database}.",)
    assert address.endpoints == (replace(endpoint, database=database, pattern=pattern, fanout=fanout),)
    assert address.master_name == ""


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"fanout_prefix": False}, "celeryev/*"),
        ({"fanout_prefix": "mine/{db}/"}, "mine/1/celeryev/*"),
        ({"fanout_patterns": False}, "/1.celeryev"),
        ({"global_keyprefix": "team:"}, "team:/1.celeryev/*"),
        ({"global_keyprefix": "[a]*?\\"}, "\\[a\\]\\*\\?\\\\/1.celeryev/*"),
    ],
)
def test_channels(options: dict[str, Any], pattern: str) -> None:
    assert parse_address("redis://h/1", options=options).endpoints[0].pattern == pattern


def test_another_exchange() -> None:
    assert parse_address("redis://h", exchange="mine").endpoints[0].pattern == "/0.mine/*"


def test_several_servers_are_tried_in_turn() -> None:
    first, second = parse_address("redis://a/1;redis://:p@b:1/2").endpoints
    assert (first.host, first.port, first.password, first.pattern) == ("a", 6379, "", "/1.celeryev/*")
    assert (second.host, second.port, second.password, second.pattern) == ("b", 1, "p", "/2.celeryev/*")


def test_sentinels() -> None:
    options = {"master_name": "main", "sentinel_kwargs": {"password": "s", "username": "su"}}
    address = parse_address("sentinel://u:p@a/2;sentinel://b:1", options=options)
    assert address.master_name == "main"
    assert address.master.pattern == "/2.celeryev/*"
    assert (address.master.username, address.master.password) == ("u", "p")
    assert [(end.host, end.port) for end in address.endpoints] == [("a", 26379), ("b", 1)]
    assert {(end.username, end.password) for end in address.endpoints} == {("su", "s")}


def test_a_rolling_upgrade_by_sentinel() -> None:
    options = {"master_name": "main", "sentinel_fanout_compat": True}
    master = parse_address("sentinel://a/2", options=options).master
    # All publish to the old channels, the new ones to both; a broadcast of ours is to reach all.
    assert (master.pattern, master.fanout) == ("/{db}.celeryev/*", ("/2.", "/{db}."))


@pytest.mark.parametrize(
    ("url", "options", "named"),
    [
        ("redis://h/many", {}, "database must be a number"),
        ("sentinel://h", {}, "--broker-transport-option master_name=NAME"),
        ("sentinel://h", {"master_name": "m", "sentinel_kwargs": "password"}, "must be a JSON object"),
        ("rediss://h?ssl_cert_reqs=maybe", {}, "ssl_cert_reqs must be required, optional or none"),
        ("redis://h/-1", {}, "database must be a number"),
        ("redis://h", {"fanout_prefix": "{db}{x}"}, "fanout_prefix may hold {db} and no other braces"),
        ("redis://h", {"fanout_prefix": "{"}, "fanout_prefix may hold {db} and no other braces"),
        ("rediss://h?ssl_ca_certs=/nowhere", {}, r"files cannot be used \(ssl_ca_certs=/nowhere\): .*No such file"),
        ("rediss://h?ssl_frobnicate=1", {}, "ssl_frobnicate is not known; known are ssl_cert_reqs, ssl_ca_certs"),
    ],
)
def test_what_cannot_work_is_said(url: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_address(url, options=options)


def test_tls_verifies_unless_told_not_to(tmp_path: Path) -> None:
    def context(url: str, **options: Any) -> ssl.SSLContext | None:
        return parse_address(url, ssl_options=options).endpoints[0].tls

    assert context("redis://h") is None
    safe = context("rediss://h")
    assert safe is not None
    assert (safe.verify_mode, safe.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert safe.minimum_version >= ssl.TLSVersion.TLSv1_2
    for blind in (context("rediss://h?ssl_cert_reqs=none"), context("redis://h", ssl_cert_reqs="CERT_NONE")):
        assert blind is not None
        assert (blind.verify_mode, blind.check_hostname) == (ssl.CERT_NONE, False)
    by_name = context("rediss://h?ssl_check_hostname=false")
    assert by_name is not None
    assert (by_name.verify_mode, by_name.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("redis://h", True),
        ("rediss://h", True),
        ("redis+socket:///r.sock", True),
        ("sentinel://h;sentinel://h", True),
        ("amqp://h", False),
        ("memory://", False),
        ("sqla+postgresql://h", False),
        ("redis://h;amqp://h", False),
    ],
)
def test_which_intake(url: str, ours: bool) -> None:
    assert is_redis(url) is ours


@pytest.mark.parametrize("url", ["redis://h/1", "rediss://u:p@h:1/2?ssl_cert_reqs=none", "redis://:p%40@h"])
def test_as_kombu_reads_it(url: str) -> None:
    theirs, (ours,) = Connection(url), parse_address(url).endpoints
    assert (theirs.hostname, theirs.userid or "", theirs.password or "") == (ours.host, ours.username, ours.password)
    assert (theirs.port or 6379) == ours.port


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://h",
        "REDISS://U%3A:p%40@Host:1//2?ssl_cert_reqs=none&a=%20b",
        "redis+socket://:p@/run/a%20b.sock?virtual_host=3",
        "amqp://user:p:a@[::1]:5672//",
        "amqp://only@h/a/b",
        "sqla+postgresql://h/x",
        "memory://",
    ],
)
def test_every_url_is_read_and_masked_as_by_kombu(url: str) -> None:
    theirs = url_to_parts(url)
    assert tuple(split(url)) == tuple(part or type(ours)() for part, ours in zip(theirs, split(url), strict=True))
    assert masked(url) == sanitize_url(url)


def test_no_password_is_shown() -> None:
    url = "redis://u:se%40cret@h:1/0;redis://:other@g?password=third"
    assert masked(url) == "redis://u:**@h:1/0;redis://:**@g/"
    assert passwords(url) == ["se@cret", "se%40cret", "other"]
    assert "p4ss" not in repr(parse_address("redis://:p4ss@h"))


def test_the_user_of_an_azure_queue_is_its_key() -> None:
    url = "azurestoragequeues://s3cret%3D@https://account.queue.core.windows.net"
    assert masked(url).startswith("azurestoragequeues://**@https")
    assert passwords(url) == ["s3cret=", "s3cret%3D"]
