"""What a token gives access to, for how long, and in whose session."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.oauth import home_pages, scopes
from nextcloud_mcp_server.tools.server import TOOLS
from tests.oauth.conftest import serving
from tests.oauth.person import Browser, Client, Served, answer, hidden
from tests.oauth.test_attacks import execute, tokens
from tests.support.nextcloud.server import StandIn

#: Arguments with which each tool would send a request.
ARGUMENTS: dict[str, dict[str, object]] = {
    "files_read": {"path": "a.txt"},
    "files_search": {"name": "a"},
    "files_write": {"path": "b.txt", "text": "x"},
    "files_move": {"path": "a.txt", "target": "c.txt"},
    "files_delete": {"path": "a.txt", "etag": "x"},
    "files_share": {"path": "a.txt"},
    "notes_search": {"text": ""},
    "notes_read": {"id": 1},
    "notes_write": {"title": "x", "text": "x"},
    "event_read": {"calendar": "personal", "id": "x"},
    "event_write": {"calendar": "personal", "title": "x", "start": "2026-12-01T10:00"},
    "event_delete": {"calendar": "personal", "id": "x", "etag": "x"},
    "task_write": {"title": "x"},
    "events_list": {"start": "2026-12-01", "end": "2026-12-02"},
    "contacts_search": {"text": "x"},
}


def call(client: Client, token: str, tool: str, arguments: dict[str, object]) -> dict[str, Any]:
    """Call a tool in the stateless protocol, and return the result."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    response = client.http.post(
        "/mcp",
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
        headers={
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        },
    )
    found: dict[str, Any] = response.json()["result"]
    return found


def test_every_tool_needs_its_own_scope(token_db: Path, nextcloud: StandIn) -> None:
    """With every scope but its own, a tool is refused, and nothing is sent to Nextcloud."""
    with (
        serving(token_db, nextcloud, share_links=True) as served,
        Client(served) as client,
        Browser(served) as browser,
    ):
        client.register()
        token = tokens(browser, client)["access_token"]
        for tool in TOOLS:
            others = [scope for scope in scopes.SCOPES if scope != tool.scope]
            execute(token_db, f"UPDATE mcp_grants SET scopes = '{' '.join(others)}'")
            before = len(nextcloud.state.seen)
            result = call(client, token, tool.name, ARGUMENTS.get(tool.name, {}))
            if tool.scope is None:
                assert not result.get("isError"), result
                continue
            assert result["isError"]
            assert f"has not granted {tool.scope}" in result["content"][0]["text"]
            assert len(nextcloud.state.seen) == before
            # Control: with the scope alone, it is not refused for it.
            execute(token_db, f"UPDATE mcp_grants SET scopes = '{tool.scope}'")
            result = call(client, token, tool.name, ARGUMENTS.get(tool.name, {}))
            assert "has not granted" not in str(result)
            assert len(nextcloud.state.seen) > before, result


def test_read_only_writes_nothing_whatever_was_granted(token_db: Path, nextcloud: StandIn) -> None:
    """A grant from before the switch has every scope, and no tool that writes runs."""
    with (
        serving(token_db, nextcloud, read_only=True) as served,
        Client(served) as client,
        Browser(served) as browser,
    ):
        client.register()
        token = tokens(browser, client)["access_token"]
        execute(token_db, f"UPDATE mcp_grants SET scopes = '{' '.join(scopes.SCOPES)}'")
        before = len(nextcloud.state.seen)
        for tool in TOOLS:
            if not tool.kind.reads:
                text = str(call(client, token, tool.name, ARGUMENTS.get(tool.name, {})))
                assert "READ_ONLY" in text
        assert len(nextcloud.state.seen) == before


def begin_session(client: Client, token: str) -> str:
    """Begin a session of the protocol with sessions, and return its id."""
    response = in_session(client, token, "", "initialize")
    assert response.status_code == 200
    session: str = response.headers["Mcp-Session-Id"]
    in_session(client, token, session, "notifications/initialized")
    return session


def in_session(client: Client, token: str, session: str, method: str) -> Any:
    """Send a message in a session; an empty one begins a new one."""
    body: dict[str, object] = {"jsonrpc": "2.0", "method": method, "params": {}}
    if not method.startswith("notifications/"):
        body["id"] = 1
    if method == "initialize":
        info = {"name": "test", "version": "1"}
        body["params"] = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
    if method == "tools/call":
        body["params"] = {"name": "whoami", "arguments": {}}
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-11-25",
        **({"Mcp-Session-Id": session} if session else {}),
    }
    return client.http.post("/mcp", json=body, headers=headers)


def test_a_session_is_of_the_person_who_began_it(served: Served, client: Client) -> None:
    """With the token of another person of the same client, its id is unknown; also to end it."""
    with Browser(served) as one, Browser(served) as other:
        alice = tokens(one, client, "alice")["access_token"]
        bob = tokens(other, client, "bob")["access_token"]
    session = begin_session(client, alice)
    assert '"user_id":"alice"' in in_session(client, alice, session, "tools/call").text.replace(
        "\\", ""
    ).replace(": ", ":")
    assert in_session(client, bob, session, "tools/call").status_code == 404
    headers = {"Authorization": f"Bearer {bob}", "Mcp-Session-Id": session}
    accepted = {"Accept": "text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
    assert client.http.get("/mcp", headers={**headers, **accepted}).status_code == 404
    assert client.http.delete("/mcp", headers={**headers, **accepted}).status_code == 404
    assert in_session(client, alice, session, "tools/call").status_code == 200


def test_a_session_follows_the_token_of_each_call(
    served: Served, browser: Browser, client: Client
) -> None:
    """A session goes on with the next token, and ends with the grant and not with itself."""
    issued = tokens(browser, client)
    session = begin_session(client, issued["access_token"])
    newer = client.refresh(issued["refresh_token"]).json()
    execute(
        served.database,
        "UPDATE mcp_tokens SET expires_at = 1 WHERE kind = 'access' AND rowid = "
        "(SELECT min(rowid) FROM mcp_tokens WHERE kind = 'access')",
    )
    old = in_session(client, issued["access_token"], session, "tools/call")
    new = in_session(client, newer["access_token"], session, "tools/call")
    assert (old.status_code, new.status_code) == (401, 200)
    assert not new.json()["result"].get("isError")
    client.http.post("/revoke", data={"token": newer["refresh_token"], "client_id": client.id})
    assert in_session(client, newer["access_token"], session, "tools/call").status_code == 401


@pytest.mark.parametrize("where", ["page", "tool"])
def test_disconnecting_ends_what_is_under_way(served: Served, client: Client, where: str) -> None:
    """A code that was not redeemed yet gives nothing, also after the person has come back."""
    with Browser(served) as browser, Client(served) as second:
        second.register(client_name="Second")
        access = tokens(browser, client)["access_token"]
        with Browser(served) as late:
            back = late.sign_in(second.url())
        if where == "page":
            asked = browser.send(home_pages.DISCONNECT, browser.sign_in_at_home())
            browser.send(home_pages.DISCONNECT, asked)
        else:
            assert not call(client, access, "disconnect", {"all": True}).get("isError")
        # The account is connected again, with another client.
        tokens(browser, client)
        assert second.redeem(answer(back)["code"]).json()["error"] == "invalid_grant"
    with closing(sqlite3.connect(served.database)) as connection:
        running = connection.execute("SELECT client_id FROM mcp_grants WHERE revoked_at IS NULL")
        assert running.fetchall() == [(client.id,)]


def test_a_confirmation_adds_what_its_page_named(
    served: Served, browser: Browser, client: Client
) -> None:
    """A page that was left open does not give back what was taken away since."""
    tokens(browser, client)
    page = browser.sign_in_at_home()
    [[mine]] = rows(served.database, "SELECT grant_id FROM mcp_grants")
    path = home_pages.SCOPES
    left_open = browser.open(f"{path}?grant={mine}&scope=notes:write")
    assert "Create and change your notes" in left_open.text
    browser.send(path, page, grant=mine, scope=["files:read"])
    again = browser.send(path, left_open)
    assert "Allow more?" in again.text
    assert "Search your contacts" in again.text
    assert rows(served.database, "SELECT scopes FROM mcp_grants") == [("files:read",)]
    # Nor does a form that names less than it adds.
    form = {"grant": str(mine), "scope": ["files:read", "files:write"], "confirmed": "notes:write"}
    browser.http.post(path, data={**form, "csrf": hidden(page)["csrf"]})
    assert rows(served.database, "SELECT scopes FROM mcp_grants") == [("files:read",)]


def test_the_token_of_a_form_is_for_one_sign_in(
    served: Served, browser: Browser, client: Client
) -> None:
    """What a page of one client has does not confirm that of another one in the same browser."""
    with Client(served) as other:
        other.register(client_name="Other")
        mine, theirs = browser.open(client.url()), browser.open(other.url())
    form = {**hidden(theirs), "csrf": hidden(mine)["csrf"], "action": "allow"}
    sent = {**form, "scope": ["files:read"]}
    assert browser.http.post("/authorize/consent", data=sent).status_code == 403
    assert served.nextcloud.state.seen == []
    sent["csrf"] = hidden(theirs)["csrf"]
    assert browser.http.post("/authorize/consent", data=sent).status_code == 303


def rows(database: Path, sql: str) -> list[tuple[object, ...]]:
    """Return what another program reads."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()
