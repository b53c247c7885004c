"""Binding the address to serve on."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.listening import bind, shown


def test_port_zero_takes_a_free_port() -> None:
    """A bound socket knows its real port, and does not listen yet."""
    [bound] = bind("127.0.0.1", 0)
    with closing(bound):
        port = bound.getsockname()[1]
        assert port > 0
        with closing(socket.socket()) as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", port))


def test_a_name_binds_all_its_addresses_on_one_port() -> None:
    """``localhost`` is reachable at every address it has here, at the same port."""
    bound = bind("localhost", 0)

    assert len({one.getsockname()[1] for one in bound}) == 1
    for one in bound:
        one.close()


def test_a_taken_port_is_told() -> None:
    """Where another program listens, the error names the address and what to do."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TokenStorageError, match=f"127.0.0.1:{port}") as raised:
            bind("127.0.0.1", port)

    assert raised.value.code == "cannot-listen"
    assert "--port" in raised.value.remedy


@pytest.mark.parametrize(
    ("host", "port", "remedy"),
    [
        ("192.0.2.1", 0, "--host"),
        ("no-such-host.invalid", 0, "--host"),
        ("label" * 50, 0, "--host"),
        ("127.0.0.1", 65536, "--port"),
        ("127.0.0.1", -1, "--port"),
    ],
)
def test_what_is_no_address_of_this_machine_is_told(host: str, port: int, remedy: str) -> None:
    """Somebody else's address, an unknown name and an impossible port are named errors."""
    with pytest.raises(TokenStorageError) as raised:
        bind(host, port)

    assert raised.value.code == "cannot-listen"
    assert remedy in raised.value.remedy


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    """What is printed can be typed into a browser."""
    assert shown("::1", 8000) == "[::1]:8000"
    assert shown("127.0.0.1", 8000) == "127.0.0.1:8000"
