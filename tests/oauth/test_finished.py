"""What happens to a sign-in that is finished when its page is loaded again."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.oauth.person import Browser, Client, Served, answer, login_url, way_back


def granted(served: Served, browser: Browser, client: Client) -> httpx2.Response:
    """Begin to sign in, grant access in Nextcloud, and return the page that still waits."""
    waiting = browser.decide(browser.open(client.url()))
    served.nextcloud.state.grant(login_url(waiting), "alice")
    return waiting


@pytest.mark.parametrize("headers", [{}, {"Accept": "application/json"}])
def test_the_code_that_was_sent_stays_valid(
    served: Served, browser: Browser, client: Client, headers: dict[str, str]
) -> None:
    """A page that is loaded again says that the sign-in is over, and leads nowhere."""
    waiting = granted(served, browser, client)
    code = answer(way_back(browser.after_pause(waiting)))["code"]
    again = browser.http.get(str(waiting.url), headers=headers)
    assert "code=" not in again.text
    if headers:
        assert again.json() == {"state": "ended"}
    else:
        assert again.status_code == 403
        assert "This sign-in has ended" in again.text
    assert client.redeem(code).status_code == 200


async def test_of_two_loads_one_gets_the_code(
    served: Served, browser: Browser, client: Client
) -> None:
    """Two tabs that are led on at the same moment: the code of the one that gets it is valid."""
    waiting = granted(served, browser, client)
    await asyncio.sleep(1.05)
    asking = {"Accept": "application/json"}
    assert browser.http.get(str(waiting.url), headers=asking).json() == {"state": "granted"}
    async with httpx2.AsyncClient(cookies=browser.http.cookies, trust_env=False) as http:
        pages = await asyncio.gather(*(http.get(str(waiting.url)) for _ in range(8)))
    [found] = [page for page in pages if page.status_code == 200]
    assert {page.status_code for page in pages} == {200, 403}
    assert client.redeem(answer(way_back(found))["code"]).status_code == 200


async def test_of_two_loads_one_is_signed_in_at_home(served: Served, browser: Browser) -> None:
    """An address that somebody has seen signs in one browser, not a second one beside it."""
    waiting = browser.send("/home/sign-in", browser.open("/"))
    served.nextcloud.state.grant(login_url(waiting), "alice")
    await asyncio.sleep(1.05)
    asking = {"Accept": "application/json"}
    assert browser.http.get(str(waiting.url), headers=asking).json() == {"state": "granted"}
    async with httpx2.AsyncClient(cookies=browser.http.cookies, trust_env=False) as http:
        pages = await asyncio.gather(*(http.get(str(waiting.url)) for _ in range(8)))
    assert sorted(page.status_code for page in pages) == [303] + [403] * 7


@pytest.mark.parametrize("way", ["head", "prefetch"])
def test_nobody_looks_at_it(served: Served, browser: Browser, client: Client, way: str) -> None:
    """A program that previews a link finishes nothing: the person who opens it gets the code."""
    waiting = granted(served, browser, client)
    asked = (
        browser.http.head(str(waiting.url))
        if way == "head"
        else browser.http.get(str(waiting.url), headers={"Sec-Purpose": "prefetch;prerender"})
    )
    assert asked.status_code in {405, 503}
    code = answer(way_back(browser.after_pause(waiting)))["code"]
    assert client.redeem(code).status_code == 200


def test_a_preview_begins_no_sign_in(browser: Browser, client: Client) -> None:
    """Neither a HEAD nor a prefetch of the address to which a client sends the person."""
    url = client.url()
    assert browser.http.head(url).status_code == 405
    assert browser.http.get(url, headers={"Sec-Purpose": "prefetch"}).status_code == 503


def test_home_is_not_entered_by_a_preview(served: Served, browser: Browser) -> None:
    """The page on which a person signs in at home is not finished by a HEAD, either."""
    waiting = browser.send("/home/sign-in", browser.open("/"))
    served.nextcloud.state.grant(login_url(waiting), "alice")
    assert browser.http.head(str(waiting.url)).status_code == 405
    assert "alice" in browser.after_pause(waiting).text
