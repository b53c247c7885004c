"""Whose request it is: the address that a trusted proxy names, and else the one that connects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from nextcloud_mcp_server.settings.process import trusted_proxies
from tests.server.helpers import Server
from tests.support.errors import refuses

#: More registrations than one address may send at once.
_MANY = 40


def statuses(url: str, addresses: list[str]) -> Iterator[int]:
    """Register a client for each address that the header names."""
    body = {"redirect_uris": ["http://127.0.0.1/back"]}
    with httpx2.Client(base_url=url, trust_env=False) as http:
        for address in addresses:
            headers = {"X-Forwarded-For": address}
            yield http.post("/register", json=body, headers=headers).status_code


@pytest.mark.parametrize("trusted", ["", "192.0.2.1", "127.0.0.1", "10.0.0.0/8, 127.0.0.0/8"])
def test_each_person_behind_a_trusted_proxy_has_a_limit(trusted: str, tmp_path: Path) -> None:
    """From anybody else the header is ignored: one address cannot look like many."""
    with Server(
        tmp_path / "tokens.db", NEXTCLOUD_HOST="http://127.0.0.1:9", TRUSTED_PROXIES=trusted
    ) as server:
        url = server.url()
        one = list(statuses(url, ["198.51.100.7"] * _MANY))
        others = list(statuses(url, [f"203.0.113.{n}, 198.51.100.8" for n in range(_MANY)]))
        next_one = list(statuses(url, [f"203.0.113.{n}" for n in range(_MANY)]))
        assert server.stop()[0] == 0
    assert 429 in one
    # The proxy adds the address at the end; what stands before is from the client.
    assert 429 in others
    assert (429 in next_one) is ("127.0" not in trusted)


def test_a_network_and_several_addresses() -> None:
    """Blanks do not count, and nothing means that no proxy is trusted."""
    for text, proxies in {
        "": [],
        "127.0.0.1": ["127.0.0.1"],
        " 172.18.0.0/16 , ::1,": ["172.18.0.0/16", "::1"],
    }.items():
        assert trusted_proxies({"TRUSTED_PROXIES": text}) == proxies


@pytest.mark.parametrize("text", ["*", "proxy.example.com", "127.0.0.1:80", "0.0.0.0/0", "::/0"])
def test_everybody_and_a_name_are_refused(text: str) -> None:
    """Everybody can send the header, and a name can lead to any address."""
    with refuses("bad-input", match="TRUSTED_PROXIES is"):
        trusted_proxies({"TRUSTED_PROXIES": text})
