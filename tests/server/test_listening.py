"""Binding the address to serve on."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.server.sockets import bind, shown
from tests.server.helpers import needs_ipv6
from tests.support.errors import refuses


def test_port_zero_takes_a_free_port() -> None:
    """A bound socket has a port and does not listen yet."""
    [bound] = bind("127.0.0.1", 0)
    with closing(bound):
        port = bound.getsockname()[1]
        assert port > 0
        with closing(socket.socket()) as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", port))


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the addresses of every name."""

    def are(*hosts: str) -> None:
        resolve = socket.getaddrinfo
        entries = [entry for host in hosts for entry in resolve(host, 0, type=socket.SOCK_STREAM)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)

    return are


@needs_ipv6
@pytest.mark.parametrize("pair", [("127.0.0.1", "::1"), ("0.0.0.0", "::")])  # noqa: S104
def test_a_name_binds_all_its_addresses_on_one_port(
    pair: tuple[str, str], addresses: Callable[..., None]
) -> None:
    """Every address of a name is bound to the same port."""
    addresses(*pair)
    bound = bind("everywhere", 0)

    assert [one.getsockname()[0] for one in bound] == list(pair)
    assert len({one.getsockname()[1] for one in bound}) == 1
    for one in bound:
        one.listen()
    for one in bound:
        one.close()


def test_a_restart_does_not_wait_for_old_connections() -> None:
    """The port of a server that closed its connections itself can be bound at once."""
    with closing(socket.create_server(("127.0.0.1", 0))) as before:
        port = before.getsockname()[1]
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            before.accept()[0].close()
            assert client.recv(1) == b""

    [bound] = bind("127.0.0.1", port)
    bound.close()


def test_an_address_of_another_machine_is_skipped(addresses: Callable[..., None]) -> None:
    """A machine without IPv6 may have a name with an IPv6 address."""
    addresses("192.0.2.1", "127.0.0.1")
    [bound] = bind("mixed", 0)

    assert bound.getsockname()[0] == "127.0.0.1"
    bound.close()


@needs_ipv6
def test_nothing_stays_bound_after_a_failure(addresses: Callable[..., None]) -> None:
    """If one address is in use, the others are released too."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        addresses("::1", "127.0.0.1")
        with pytest.raises(TokenStorageError):
            bind("everywhere", port)

    with closing(socket.socket(socket.AF_INET6)) as free:
        free.bind(("::1", port))


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
def test_other_addresses_are_refused(host: str, port: int, remedy: str) -> None:
    """An address of another machine, an unknown name and an invalid port have a remedy."""
    with refuses("cannot-listen") as raised:
        bind(host, port)

    assert remedy in raised.value.remedy


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    """The printed address is valid in a URL."""
    assert shown("::1", 8000) == "[::1]:8000"
    assert shown("127.0.0.1", 8000) == "127.0.0.1:8000"
