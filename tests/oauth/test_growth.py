"""What anybody can store without a sign-in: the size of a registration, and the audit log."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from nextcloud_mcp_server.auth import mcp_clients
from tests.oauth.person import Browser, Client, Served

if TYPE_CHECKING:
    import pytest


def _entries(served: Served) -> int:
    with closing(sqlite3.connect(served.database)) as database:
        found: int = database.execute("SELECT count(*) FROM audit_logs").fetchone()[0]
        return found


def test_a_large_registration_is_refused(client: Client) -> None:
    """8 KB of metadata are enough: 20 redirect URIs of some hundred characters."""
    uris = [f"https://client.example/{'x' * 300}{number}" for number in range(20)]
    for more, status in (({}, 201), ({"client_uri": f"https://c.example/{'y' * 8192}"}, 400)):
        answer = client.http.post("/register", json={"redirect_uris": uris, **more})
        assert answer.status_code == status
    assert answer.json()["error"] == "invalid_client_metadata"
    assert "8 KB" in answer.json()["error_description"]
    for name in ("logo_uri", "scope", "software_id"):
        large = {"redirect_uris": uris[:1], name: f"https://c.example/{'y' * 50_000}"}
        assert client.http.post("/register", json=large).status_code == 400


def test_a_registration_is_refused_if_there_are_too_many(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 says when to try again; a client that has just registered can still connect."""
    monkeypatch.setattr(mcp_clients, "MOST_UNUSED", 1)
    answer = client.http.post("/register", json={"redirect_uris": ["https://c.example/x"]})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "600")
    with Browser(client.served) as browser:
        assert browser.open(client.url()).status_code == 200


def test_the_audit_log_does_not_grow_without_a_sign_in(served: Served, client: Client) -> None:
    """Neither registrations nor sign-ins that nobody completes have an entry."""
    before = _entries(served)
    for number in range(10):
        json = {"redirect_uris": [f"https://c.example/{number}"]}
        assert client.http.post("/register", json=json).status_code == 201
        with Browser(served) as another:
            assert another.open(client.url()).status_code == 200
    assert _entries(served) == before
    with Browser(served) as browser:
        browser.sign_in(client.url())
    assert _entries(served) > before
