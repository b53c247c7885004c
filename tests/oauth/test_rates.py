"""How often an address may ask, while many others ask."""

from __future__ import annotations

from typing import Any

import pytest

from nextcloud_mcp_server.oauth import limits
from nextcloud_mcp_server.oauth.limits import RateLimit


class Limited:
    """An endpoint with a limit of 30 at once and one in two seconds, and a clock that is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, burst: int = 30) -> None:
        self.now = 1_000.0
        self.wait = ""
        monkeypatch.setattr(f"{limits.__name__}.time.monotonic", lambda: self.now)
        self._limit = RateLimit(self._answer, burst=burst, per_second=0.5)

    @property
    def remembered(self) -> int:
        """The number of addresses that are remembered."""
        return len(self._limit._left)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def allowed(self, address: str, requests: int = 1) -> int:
        """Send requests, and return how many were allowed."""
        statuses = []

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))
            for name, value in message.get("headers", ()):
                if name == b"retry-after":
                    self.wait = value.decode()

        async def receive() -> Any:
            raise AssertionError("no body is read")

        scope = {"type": "http", "client": (address, 1), "headers": [], "method": "GET"}
        for _ in range(requests):
            await self._limit(scope, receive, send)
        return statuses.count(200)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Limited:
    """An endpoint of which nothing was asked."""
    return Limited(monkeypatch)


async def test_a_burst_comes_back_with_time(limited: Limited) -> None:
    """After the burst an address gets one request in two seconds."""
    assert await limited.allowed("192.0.2.1", 100) == 30
    limited.now += 10
    assert await limited.allowed("192.0.2.1", 100) == 5
    limited.now += 1_000
    assert await limited.allowed("192.0.2.1", 100) == 30


async def test_without_the_limit_every_request_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What refuses the others is the limit: with one of a thousand nobody is stopped."""
    assert await Limited(monkeypatch, burst=1_000).allowed("192.0.2.1", 100) == 100


async def test_the_answer_says_when_to_ask_again(limited: Limited) -> None:
    """Retry-After has the seconds until a request is allowed, rounded up."""
    await limited.allowed("192.0.2.1", 31)
    assert limited.wait == "2"
    limited.now += 1.5
    assert await limited.allowed("192.0.2.1") == 0
    assert limited.wait == "1"
    limited.now += 1
    assert await limited.allowed("192.0.2.1") == 1


async def test_a_number_of_addresses_is_remembered(
    limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more, and one that is remembered already pushes nobody out."""
    monkeypatch.setattr(limits, "_MOST", 100)
    for number in range(100):
        await limited.allowed(f"10.0.0.{number}")
    await limited.allowed("10.0.0.1")
    assert limited.remembered == 100
    for number in range(100):
        await limited.allowed(f"10.0.1.{number}")
        assert limited.remembered <= 100


async def test_many_addresses_give_nobody_a_new_burst(limited: Limited) -> None:
    """Who has used up a burst is remembered, however many others ask once."""
    assert await limited.allowed("192.0.2.1", 100) == 30
    for number in range(25_000):
        await limited.allowed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert await limited.allowed("192.0.2.1", 100) == 0


async def test_who_has_the_burst_again_is_forgotten_first(limited: Limited) -> None:
    """Of 10,000 that are remembered those go that lose nothing."""
    for number in range(6_000):
        await limited.allowed(f"10.0.{number >> 8}.{number & 255}")
    limited.now += 1_000
    for number in range(6_000):
        await limited.allowed(f"10.1.{number >> 8}.{number & 255}", 31)
    assert await limited.allowed("10.1.0.0") == 0


async def test_a_network_of_ipv6_is_one_address(limited: Limited) -> None:
    """A machine has a /64 for itself; an address of IPv4 is the same one in both forms."""
    assert await limited.allowed("2001:db8::1", 20) == 20
    assert await limited.allowed("2001:db8::2", 20) == 10
    assert await limited.allowed("2001:db8:0:1::1", 20) == 20
    assert await limited.allowed("::ffff:192.0.2.1", 20) == 20
    assert await limited.allowed("192.0.2.1", 20) == 10
    assert await limited.allowed("", 40) == 30
