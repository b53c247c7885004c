"""Home: what a person sees and changes, and what another person or site cannot."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.oauth.home_pages import DISCONNECT, REVOKE, SCOPES, SIGN_IN, SIGN_OUT
from tests.oauth.conftest import serving
from tests.oauth.person import Browser, Client, Served, answer, hidden, login_url
from tests.support.nextcloud.server import StandIn

ALL = ["files:read", "notes:read", "calendar:read", "contacts:read"]


def connect(browser: Browser, client: Client, user: str = "alice") -> dict[str, str]:
    """Give a client access, and return its tokens."""
    response = client.redeem(answer(browser.sign_in(client.url(), user))["code"])
    assert response.status_code == 200
    found: dict[str, str] = response.json()
    return found


def rows(database: Path, sql: str) -> list[tuple[object, ...]]:
    """Read the database as another program."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def grant_id(served: Served) -> str:
    """Return the id of the only running grant."""
    [[found]] = rows(served.database, "SELECT grant_id FROM mcp_grants WHERE revoked_at IS NULL")
    return str(found)


def test_a_visitor_sees_what_the_server_is(served: Served, browser: Browser) -> None:
    """Without a sign-in the page has the MCP address and a way to sign in, and no name."""
    page = browser.open("/")
    assert page.status_code == 200
    assert f"<code>{served.url}<wbr>/mcp</code>" in page.text
    assert "Sign in with Nextcloud" in page.text
    assert "alice" not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Cache-Control"] == "no-store"


def test_a_person_signs_in_and_sees_what_is_connected(
    served: Served, browser: Browser, client: Client
) -> None:
    """The page names Nextcloud, user, client, target, scopes and last use."""
    tokens = connect(browser, client)
    assert client.call(tokens["access_token"]).status_code == 200
    page = browser.sign_in_at_home()
    assert page.url.path == "/"
    for text in (served.nextcloud.url, "alice", "Test client", "a program on this computer"):
        assert text in page.text
    assert re.findall(r'value="([\w:]+)" checked', page.text) == ALL
    assert "<dt>Last used</dt><dd><time" in page.text
    # The app password of the client works; that of the sign-in was deleted at once.
    [user] = [user for user in served.nextcloud.state.users.values() if user.id == "alice"]
    assert len(user.app_passwords) == 1
    assert client.call(tokens["access_token"]).status_code == 200


def test_the_cookie_of_a_sign_in_is_new_and_guarded(served: Served, browser: Browser) -> None:
    """It is not the one from before, no script reads it, and the store has only its hash."""
    before = browser.open("/").headers["Set-Cookie"].split(";")[0].split("=")[1]
    waiting = browser.send(SIGN_IN, browser.open("/"))
    served.nextcloud.state.grant(login_url(waiting), "alice")
    time.sleep(1.05)
    done = browser.http.get(str(waiting.url))
    assert done.status_code == 303
    assert done.headers["Location"] == "/"
    name, *attributes = done.headers["Set-Cookie"].split("; ")
    assert name.startswith("nextcloud-mcp-home=")
    value = name.split("=")[1]
    assert value != before
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(attributes)
    assert value.encode() not in served.database.read_bytes()
    # The sign-in is over: its address signs nobody in again.
    assert browser.http.get(str(waiting.url)).status_code == 403


def test_a_grant_is_narrowed_at_once_and_widened_after_a_question(
    served: Served, browser: Browser, client: Client
) -> None:
    """Fewer scopes are stored at once; more only after a page that says what they allow."""
    tokens = connect(browser, client)
    page = browser.sign_in_at_home()
    mine = grant_id(served)
    page = browser.send(SCOPES, page, grant=mine, scope=["files:read"])
    assert re.findall(r'value="([\w:]+)" checked', page.text) == ["files:read"]
    assert '["files:read"]' in client.call(tokens["access_token"]).text.replace("\\", "")
    asked = browser.send(SCOPES, page, grant=mine, scope=["files:read", "files:write"])
    assert "Create, change and delete your files" in asked.text
    assert "Read your files" not in asked.text
    [[stored]] = rows(served.database, "SELECT scopes FROM mcp_grants")
    assert stored == "files:read"
    page = browser.send(SCOPES, asked)
    assert re.findall(r'value="([\w:]+)" checked', page.text) == ["files:read", "files:write"]
    assert browser.send(SCOPES, page, grant=mine, scope=[]).status_code == 400


@pytest.mark.parametrize("confirmed", ["notes:write", "yes"])
def test_only_what_was_on_the_page_is_confirmed(
    served: Served, browser: Browser, client: Client, confirmed: str
) -> None:
    """A form that confirms one scope, or none, allows no other one: the person is asked."""
    connect(browser, client)
    page = browser.sign_in_at_home()
    chosen = [*ALL, "notes:write", "files:write"]
    form = {"grant": grant_id(served), "scope": chosen, "confirmed": confirmed}
    assert "Allow more?" in browser.send(SCOPES, page, **form).text
    [[stored]] = rows(served.database, "SELECT scopes FROM mcp_grants")
    assert str(stored).split() == ALL


def test_a_link_of_a_tool_leads_through_the_sign_in_to_the_question(
    served: Served, browser: Browser, client: Client
) -> None:
    """Unknown scopes and addresses in the link have no effect."""
    connect(browser, client)
    link = f"{SCOPES}?grant={grant_id(served)}&scope=notes:write&scope=root&next=https://evil"
    asked = browser.sign_in_at_home(path=link)
    assert "Allow more?" in asked.text
    assert "Create and change your notes" in asked.text
    assert "evil" not in asked.text
    done = browser.send(SCOPES, asked)
    [[stored]] = rows(served.database, "SELECT scopes FROM mcp_grants")
    assert "notes:write" in str(stored).split()
    assert "Test client may now:" in done.text
    assert "<li>Create and change your notes</li>" in done.text
    assert "Go back to Test client" in done.text
    # There is nothing to add any more.
    assert browser.open(link).url.path == "/"


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_a_sign_in_leads_nowhere_else(served: Served, browser: Browser, target: str) -> None:
    """Whatever a form says, the browser stays on this server."""
    page = browser.open("/")
    sent = browser.http.post(SIGN_IN, data={**hidden(page), "grant": target, "next": target})
    waiting = browser.open(sent.headers["Location"])
    served.nextcloud.state.grant(login_url(waiting), "alice")
    browser.after_pause(waiting)
    [[count]] = rows(served.database, "SELECT count(*) FROM browser_sessions")
    assert count == 1
    done = browser.http.get("/")
    assert done.status_code == 200


def test_read_only_offers_nothing_that_writes(token_db: Path, nextcloud: StandIn) -> None:
    """No scope that writes can be chosen, also not by a form that was made by hand."""
    with (
        serving(token_db, nextcloud, read_only=True) as served,
        Browser(served) as browser,
        Client(served) as client,
    ):
        client.register()
        connect(browser, client)
        page = browser.sign_in_at_home()
        assert ":write" not in page.text
        assert "files:share" not in page.text
        chosen = ["files:read", "files:write"]
        form = {"grant": grant_id(served), "scope": chosen, "confirmed": chosen}
        browser.send(SCOPES, page, **form)
        [[stored]] = rows(token_db, "SELECT scopes FROM mcp_grants")
        assert stored == "files:read"


def test_a_grant_is_revoked(served: Served, browser: Browser, client: Client) -> None:
    """Its tokens end at once, and the page says that the person did it."""
    tokens = connect(browser, client)
    page = browser.send(REVOKE, browser.send(REVOKE, browser.sign_in_at_home()))
    assert "You revoked it here." in page.text
    assert client.call(tokens["access_token"]).status_code == 401
    assert client.refresh(tokens["refresh_token"]).status_code == 400


def test_what_ended_last_is_first(served: Served, browser: Browser, client: Client) -> None:
    """The list of what has ended begins with the newest."""
    for _ in range(2):
        connect(browser, client)
        browser.send(REVOKE, browser.send(REVOKE, browser.sign_in_at_home()))
        browser.send(SIGN_OUT, browser.open("/"))
    with closing(sqlite3.connect(served.database)) as connection, connection:
        [(first,), (second,)] = connection.execute("SELECT grant_id FROM mcp_grants").fetchall()
        change = "UPDATE mcp_grants SET revoked_at = revoked_at - 86400 * ? WHERE grant_id = ?"
        connection.executemany(change, [(1, first), (2, second)])
        newest_first = connection.execute(
            "SELECT date(revoked_at, 'unixepoch') FROM mcp_grants ORDER BY revoked_at DESC"
        ).fetchall()
    page = browser.sign_in_at_home()
    _, ended = page.text.split("Ended in the last 30 days")
    assert re.findall(r'datetime="(\d{4}-\d\d-\d\d)', ended) == [day for (day,) in newest_first]
    with closing(sqlite3.connect(served.database)) as connection, connection:
        connection.executemany(change, [(2, first)])
    _, ended = browser.open("/").text.split("Ended in the last 30 days")
    days = re.findall(r'datetime="(\d{4}-\d\d-\d\d)', ended)
    assert days == sorted(days, reverse=True)


def test_the_last_page_says_what_happened(browser: Browser, client: Client) -> None:
    """Its heading is that nothing was connected, or who is; that of home says what to confirm."""
    refused = browser.decide(browser.open(client.url()), "refuse")
    assert "<h1>Nothing was connected</h1>" in refused.text
    waiting = browser.decide(browser.open(client.url()))
    browser.served.nextcloud.state.grant(login_url(waiting), "alice")
    assert "<h1>Test client is connected</h1>" in browser.after_pause(waiting).text
    waiting = browser.send(SIGN_IN, browser.open("/"))
    assert "<h1>Confirm in Nextcloud who you are</h1>" in waiting.text
    assert "deletes it as soon as it knows who you are" in waiting.text


def test_a_reused_token_is_told(served: Served, browser: Browser, client: Client) -> None:
    """A grant that was revoked because of a reuse says so."""
    tokens = connect(browser, client)
    assert client.refresh(tokens["refresh_token"]).status_code == 200
    with closing(sqlite3.connect(served.database)) as connection, connection:
        connection.execute("UPDATE mcp_tokens SET used_at = used_at - 61 WHERE used_at > 0")
    assert client.refresh(tokens["refresh_token"]).status_code == 400
    page = browser.sign_in_at_home()
    assert "An old token of it was used again" in page.text
    assert '<li class="problem">' in page.text


def test_disconnecting_ends_everything(served: Served, browser: Browser, client: Client) -> None:
    """After a question: every grant, the app password in Nextcloud, and the row."""
    tokens = connect(browser, client)
    asked = browser.send(DISCONNECT, browser.sign_in_at_home())
    assert client.call(tokens["access_token"]).status_code == 200
    page = browser.send(DISCONNECT, asked)
    assert page.url.path == "/"
    assert "You disconnected your account." in page.text
    assert served.nextcloud.state.users["alice"].app_passwords == {}
    assert rows(served.database, "SELECT * FROM app_passwords") == []
    assert client.call(tokens["access_token"]).status_code == 401


def test_what_stays_in_nextcloud_is_told(served: Served, browser: Browser, client: Client) -> None:
    """If Nextcloud does not answer, everything ends here, and the page says what to delete."""
    connect(browser, client)
    asked = browser.send(DISCONNECT, browser.sign_in_at_home())
    served.nextcloud.state.maintenance = True
    page = browser.send(DISCONNECT, asked)
    assert "(Test client)" in page.text
    assert rows(served.database, "SELECT * FROM app_passwords") == []


def test_a_refused_password_is_told_and_renewed(
    served: Served, browser: Browser, client: Client
) -> None:
    """The page says so, and the next sign-in stores the new password for all programs."""
    connect(browser, client)
    page = browser.sign_in_at_home()
    with closing(sqlite3.connect(served.database)) as connection, connection:
        connection.execute("UPDATE app_passwords SET refused_at = 1700000000")
    page = browser.open("/")
    assert "Nextcloud has refused the app password since 2023-11-14" in page.text
    browser.send(SIGN_OUT, page)
    page = browser.sign_in_at_home()
    assert "refused" not in page.text
    [[refused]] = rows(served.database, "SELECT refused_at FROM app_passwords")
    assert refused is None


def test_signing_out_ends_the_session(served: Served, browser: Browser) -> None:
    """The row is gone, and the old cookie signs nobody in."""
    page = browser.sign_in_at_home()
    old = browser.http.cookies["nextcloud-mcp-home"]
    assert "Sign in with Nextcloud" in browser.send(SIGN_OUT, page).text
    assert rows(served.database, "SELECT * FROM browser_sessions") == []
    browser.http.cookies.set("nextcloud-mcp-home", old)
    assert "Sign in with Nextcloud" in browser.open("/").text


@pytest.mark.parametrize("path", [SCOPES, REVOKE, DISCONNECT, SIGN_OUT, SIGN_IN])
@pytest.mark.parametrize("change", ["csrf", "origin", "null"])
def test_forms_of_other_sites_are_refused(
    served: Served, browser: Browser, client: Client, path: str, change: str
) -> None:
    """A POST without the token of the page, or from another origin, changes nothing."""
    tokens = connect(browser, client)
    page = browser.open("/") if path == SIGN_IN else browser.sign_in_at_home()
    form = {**hidden(page), "grant": grant_id(served), "scope": "files:read", "confirmed": "yes"}
    origin = {"csrf": served.url, "origin": "https://attacker.example", "null": "null"}[change]
    if change == "csrf":
        form["csrf"] = "0" * 64
    response = browser.http.post(path, data=form, headers={"Origin": origin})
    assert response.status_code == 403
    [[scopes]] = rows(served.database, "SELECT scopes FROM mcp_grants")
    assert scopes == " ".join(ALL)
    assert client.call(tokens["access_token"]).status_code == 200


def test_two_people_never_see_each_others_grants(
    served: Served, browser: Browser, client: Client
) -> None:
    """In two browsers, interleaved; and nobody changes what the other granted."""
    connect(browser, client, "alice")
    of_alice = grant_id(served)
    with Browser(served) as other, Client(served) as second:
        second.register(client_name="Program of bob")
        connect(other, second, "bob")
        alice, bob = browser.sign_in_at_home("alice"), other.sign_in_at_home("bob")
        assert "Program of bob" not in alice.text
        assert "Test client" not in bob.text
        assert of_alice not in bob.text
        for path in (REVOKE, SCOPES):
            form = {"grant": of_alice, "scope": "files:read", "confirmed": "yes"}
            assert other.send(path, bob, **form).status_code == 404
        assert other.open(f"{SCOPES}?grant={of_alice}&scope=files:write").status_code == 404
        # The token of a form is of one browser.
        stolen = {"csrf": hidden(bob)["csrf"], "grant": of_alice}
        assert browser.http.post(REVOKE, data=stolen).status_code == 403
        other.send(DISCONNECT, bob, confirmed="yes")
    sql = "SELECT user_id FROM mcp_grants WHERE revoked_at IS NULL"
    assert rows(served.database, sql) == [("alice",)]
    assert rows(served.database, "SELECT user_id FROM app_passwords") == [("alice",)]


def test_a_sign_in_belongs_to_its_browser(served: Served, browser: Browser) -> None:
    """Another browser with the address of the page that waits is not signed in."""
    waiting = browser.send(SIGN_IN, browser.open("/"))
    with Browser(served) as other:
        other.open("/")
        assert other.open(str(waiting.url)).status_code == 403
        served.nextcloud.state.grant(login_url(waiting), "alice")
        assert other.after_pause(waiting).status_code == 403
    assert "Sign in with Nextcloud" not in browser.after_pause(waiting).text


def test_the_pages_of_a_client_do_not_answer_for_home(
    served: Served, browser: Browser, client: Client
) -> None:
    """A sign-in of one kind cannot be finished as one of the other."""
    consent = browser.open(client.url())
    session = hidden(consent)["session"]
    assert browser.open(f"{SIGN_IN}?session={session}").status_code == 403
    waiting = browser.send(SIGN_IN, browser.open("/"))
    session = hidden(waiting)["session"]
    for path in ("/authorize/consent", "/authorize/wait"):
        assert browser.open(f"{path}?session={session}").status_code == 403


def test_a_cancelled_sign_in_ends(served: Served, browser: Browser) -> None:
    """Granting afterwards signs nobody in."""
    waiting = browser.send(SIGN_IN, browser.open("/"))
    page = browser.send(SIGN_IN, waiting)
    assert page.url.path == "/"
    assert browser.open(str(waiting.url)).status_code == 403


def test_names_are_escaped(served: Served, browser: Browser) -> None:
    """A client's name is text on every page of home."""
    with Client(served) as client:
        client.register(client_name='<script>alert(1)</script>"onload="x')
        connect(browser, client)
    page = browser.sign_in_at_home()
    asked = browser.open(f"{SCOPES}?grant={grant_id(served)}&scope=files:write")
    for one in (page, asked):
        assert "<script>alert" not in one.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;onload=&quot;x" in one.text


def test_a_users_name_is_escaped(served: Served, browser: Browser) -> None:
    """A user id is text too."""
    name = '<img src="x">'
    served.nextcloud.state.add_user(name, "password")
    page = browser.sign_in_at_home(name)
    assert "<img" not in page.text
    assert "&lt;img src=&quot;x&quot;&gt;" in page.text
