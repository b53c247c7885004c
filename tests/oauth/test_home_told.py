"""What the pages tell a person: who asks, who is signed in, what was changed, where to go on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from nextcloud_mcp_server.oauth.home_pages import REVOKE, SCOPES, SIGN_IN, SIGN_OUT
from tests.oauth.person import Browser, Client, Served, hidden
from tests.oauth.test_home import connect, grant_id, rows

if TYPE_CHECKING:
    import httpx2


def checked(page: httpx2.Response) -> list[str]:
    """Return the scopes whose boxes are checked."""
    return re.findall(r'value="([\w:]+)" checked', page.text)


def status(page: httpx2.Response) -> str:
    """Return what a screen reader is told about the last change."""
    [found] = re.findall(r'role="status">(.*?)</(?:p|div)>', page.text, re.DOTALL)
    return str(found)


def test_the_page_of_a_link_says_what_is_asked_for(
    served: Served, browser: Browser, client: Client
) -> None:
    """Before the sign-in it names the program and the scopes, and says why to sign in."""
    connect(browser, client)
    page = browser.open(f"{SCOPES}?grant={grant_id(served)}&scope=notes:write&scope=root")
    assert "<strong>Test client</strong> asks for more" in page.text
    assert "<li>Create and change your notes</li>" in page.text
    assert "Sign in to allow it" in page.text
    assert 'value="root"' not in page.text
    assert "Connect a program" not in page.text
    unknown = browser.open(f"{SCOPES}?grant=0123&scope=notes:write")
    assert "<strong>A program</strong> asks for more" in unknown.text
    assert "asks for" not in browser.open(f"{SCOPES}?grant=0123&scope=root").text


def test_a_link_of_somebody_else_says_who_is_signed_in(
    served: Served, browser: Browser, client: Client
) -> None:
    """Alice can leave the page, or sign out; then bob signs in and is asked."""
    connect(browser, client, "bob")
    mine = grant_id(served)
    browser.sign_in_at_home("alice")
    page = browser.open(f"{SCOPES}?grant={mine}&scope=notes:write")
    assert page.status_code == 404
    assert "signed in here as <strong>alice</strong>" in page.text
    assert 'href="/"' in page.text
    assert "bob" not in page.text
    page = browser.send(SIGN_OUT, page)
    assert "Create and change your notes" in page.text
    asked = browser.sign_in_at_home("bob", path=str(page.url))
    assert "Allow more?" in asked.text


def test_one_save_shows_what_it_takes_away_and_adds(
    served: Served, browser: Browser, client: Client
) -> None:
    """The question has both, and nothing is changed before the answer."""
    connect(browser, client)
    page = browser.sign_in_at_home()
    before = checked(page)
    chosen = [*before[1:], "files:write"]
    asked = browser.send(SCOPES, page, grant=grant_id(served), scope=chosen)
    assert "would then also be allowed to" in asked.text
    assert "<li>Create, change and delete your files</li>" in asked.text
    assert "would then no longer be allowed to" in asked.text
    assert "<li>Read your files</li>" in asked.text
    assert "Change it" in asked.text
    assert checked(browser.open("/")) == before
    assert set(checked(browser.send(SCOPES, asked))) == set(chosen)


def test_saving_is_confirmed(served: Served, browser: Browser, client: Client) -> None:
    """After less was allowed the page says what the program may do, and to whom that belongs."""
    connect(browser, client)
    page = browser.sign_in_at_home()
    assert 'role="status"' not in page.text
    page = browser.send(SCOPES, page, grant=grant_id(served), scope=["files:read"])
    assert "Saved. Test client may now" in status(page)
    assert "Go back to" not in page.text


def test_only_what_was_changed_is_told(served: Served, browser: Browser, client: Client) -> None:
    """Of several programs the page names the one that was changed, as long as that is so."""
    connect(browser, client)
    mine = grant_id(served)
    with Client(served) as other:
        other.register(client_name="Other client")
        connect(browser, other)
    page = browser.sign_in_at_home()
    page = browser.send(SCOPES, page, grant=mine, scope=["files:read"])
    assert "Saved. Test client may now" in status(page)
    saved = str(page.url)
    browser.send(REVOKE, page, grant=mine, confirmed="yes")
    assert 'role="status"' not in browser.open(saved).text


def test_revoking_asks_first(served: Served, browser: Browser, client: Client) -> None:
    """The question names the program, and has a way back."""
    connect(browser, client)
    asked = browser.send(REVOKE, browser.sign_in_at_home())
    assert "Test client loses its access at once" in asked.text
    assert 'href="/"' in asked.text
    assert grant_id(served)
    page = browser.send(REVOKE, asked)
    assert "Test client has no access any more" in status(page)
    assert rows(served.database, "SELECT 1 FROM mcp_grants WHERE revoked_at IS NULL") == []


def test_no_page_is_a_dead_end(served: Served, browser: Browser, client: Client) -> None:
    """Each page about an error has a link to where its text sends the person."""
    connect(browser, client)
    page = browser.sign_in_at_home()
    nothing = browser.send(SCOPES, page, grant=grant_id(served), scope=[])
    foreign = browser.http.post(REVOKE, data={"csrf": "0"})
    gone = browser.open(f"{SIGN_IN}?session=x")
    ended = browser.open("/authorize/wait?session=x")
    for one in (nothing, foreign, gone, ended):
        assert one.status_code >= 400
        assert '<a class="button" href="/">' in one.text
    served.nextcloud.state.maintenance = True
    consent = browser.open(client.url())
    form = {**hidden(consent), "action": "allow", "scope": "files:read"}
    failed = browser.http.post(
        "/authorize/consent", data=form, headers={"Referer": str(consent.url)}
    )
    assert failed.status_code == 502
    [link] = re.findall(r'<a class="button" href="([^"]*)">Try again', failed.text)
    assert browser.open(link.replace("&amp;", "&")).status_code == 200


@pytest.mark.parametrize(
    ("referer", "link"),
    [
        ("{0}/home?a=1", "/home?a=1"),
        ("{0}//evil.example/?a", "/"),
        ("https://evil.example/home", "/"),
        ("", "/"),
    ],
)
def test_trying_again_stays_on_this_server(
    served: Served, browser: Browser, referer: str, link: str
) -> None:
    """After a failed form the link leads to the page of the form, or to the first one."""
    served.nextcloud.state.maintenance = True
    headers = {"Referer": referer.format(served.url)}
    failed = browser.http.post(SIGN_IN, data=hidden(browser.open("/")), headers=headers)
    assert failed.status_code == 502
    assert re.findall(r'<a class="button" href="([^"]*)">Try again', failed.text) == [link]


def test_a_browser_at_the_address_of_clients_sees_what_it_is_for(
    served: Served, browser: Browser, client: Client
) -> None:
    """A page for people; a client gets what it had before."""
    page = browser.http.get("/mcp")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "in your MCP client" in page.text
    assert 'href="/"' in page.text
    assert client.http.get("/mcp").status_code == 401
    stream = {"Accept": "text/event-stream, text/html"}
    assert browser.http.get("/mcp", headers=stream).status_code == 401
    assert browser.http.post("/mcp", json={}).status_code == 401
    assert browser.http.get(REVOKE).status_code == 405
    page = browser.http.get("/nothing")
    assert page.status_code == 404
    assert "There is no such page" in page.text
    assert 'href="/"' in page.text
    assert client.http.get("/nothing").json() == {"error": "Not Found"}


@pytest.mark.parametrize("path", ["/", f"{SCOPES}?grant=0123&scope=notes:write"])
def test_under_another_name_the_page_says_which_one_is_right(
    served: Served, browser: Browser, path: str
) -> None:
    """Forms are accepted at PUBLIC_URL only, so each page has a link to it, also on loopback."""
    told = "If your browser shows another address"
    assert told not in browser.open(path).text
    page = browser.http.get(path, headers={"Host": "localhost:8000"})
    assert told in page.text
    assert f'<a href="{served.url}/">' in page.text
    page = browser.http.get(path, headers={"Host": "intranet.example:8000"})
    assert (page.status_code, "intranet" in page.text) == (421, False)
    assert f'href="{served.url}/"' in page.text
