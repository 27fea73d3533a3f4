"""Addresses to listen on."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from loopwatch_monitor.addresses import Address, AddressError, bind, parse_address, unlink


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9808", Address("127.0.0.1", 9808)),
        ("[::1]:9808", Address("::1", 9808)),
        (":9808", Address("", 9808)),
        ("monitor.example.org:0", Address("monitor.example.org", 0)),
        ("unix:///run/a b.sock", Address(path="/run/a b.sock")),
    ],
)
def test_what_is_understood(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "9808", "host", "host:", "host:http", "host:65536", "host:-1", "::1:9808", "[::1]", "h[::1]:1", "[x:1",
     "unix://", "unix://relative", "host:\uff19"],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    with pytest.raises(AddressError, match=r"must be written like|needs an absolute path") as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


def test_all_interfaces_at_one_free_port() -> None:
    listeners = bind(Address())
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        with socket.create_connection(("::1" if listener.family == socket.AF_INET6 else "127.0.0.1",
                                       listener.getsockname()[1])):  # fmt: skip
            listener.close()


def test_a_unix_socket_is_for_the_user_and_the_group_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    (listener,) = bind(Address(path=str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(OSError, match="in use"):
        bind(Address(path=str(path)))
    listener.close()  # as a process does that is killed
    (listener,) = bind(Address(path=str(path)))
    unlink(listener)
    listener.close()
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="in use"):
        bind(Address(path=str(path)))
    assert path.read_text() == "data"
