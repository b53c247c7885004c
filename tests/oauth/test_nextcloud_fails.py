"""What a person and the log are told while Nextcloud does not answer."""

from __future__ import annotations

import logging
import time
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.oauth.home_pages import SIGN_IN
from tests.oauth.conftest import serving
from tests.oauth.person import Browser, Client
from tests.oauth.test_tools import ERAS, connected, error
from tests.support.nextcloud.server import running

if TYPE_CHECKING:
    import httpx2


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about sign-ins."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "sign-in" in record.getMessage()
    ]


def is_page(page: httpx2.Response, address: str) -> None:
    """Check that a page is for a person: no word of Python, and none of the settings."""
    text = unescape(page.text)
    assert page.status_code == 502
    assert f"Nextcloud at {address} does not answer." in text
    assert "tell the operator of this server" in text
    assert page.headers["X-Request-ID"] in text
    assert "ConnectError" not in text
    assert "NEXTCLOUD_HOST" not in text


def test_a_sign_in_without_nextcloud(token_db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A person gets a page with the id of the request, and the log one warning with the code."""
    with running() as nextcloud:
        pass
    caplog.set_level(logging.INFO)
    with serving(token_db, nextcloud) as served, Browser(served) as browser:
        with Client(served) as client:
            assert client.register().status_code == 201
            is_page(browser.decide(browser.open(client.url())), nextcloud.url)
        [logged] = warnings(caplog)
        assert "[no-connection]" in logged
        assert "the connection was refused" in logged
        caplog.clear()
        is_page(browser.send(SIGN_IN, browser.open("/")), nextcloud.url)
    [logged] = warnings(caplog)
    assert "[no-connection]" in logged


def test_a_sign_in_that_waits_logs_once(token_db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The page asks every two seconds: the same error is logged once, and shown for people."""
    with running() as nextcloud, serving(token_db, nextcloud) as served, Browser(served) as browser:
        waiting = browser.send(SIGN_IN, browser.open("/"))
        nextcloud.state.redirect_to = "https://elsewhere.example.com"
        caplog.set_level(logging.INFO)
        for _ in range(2):
            time.sleep(1.05)
            page = browser.open(str(waiting.url))
            assert f"{nextcloud.url} does not answer as Nextcloud does." in unescape(page.text)
            assert "NEXTCLOUD_HOST" not in page.text
    [logged] = warnings(caplog)
    assert "[moved]" in logged


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_without_nextcloud(
    token_db: Path, caplog: pytest.LogCaptureFixture, era: str
) -> None:
    """The assistant is told what a person can do; what the operator can do is in the log."""
    with running() as nextcloud, serving(token_db, nextcloud) as served:
        async with connected(served, era) as client:
            await client.list_tools()
            nextcloud.state.redirect_to = "https://elsewhere.example.com"
            text = error(await client.call_tool("files_list", {"path": ""}))
            assert f"{nextcloud.url} does not answer as Nextcloud does." in text
            assert "tell the operator of this server" in text
            assert "NEXTCLOUD_HOST" not in text
            assert "elsewhere" not in text
    [logged] = [one for one in caplog.messages if one.startswith("A tool failed")]
    assert "https://elsewhere.example.com" in logged
    assert "[moved]" in logged


def test_what_is_for_the_operator_is_not_told() -> None:
    """The address inside, the library's error and the settings are his; the rest is kept."""
    place = "https://cloud.example.com"
    inside = "http://nextcloud:80"
    for failed in (
        errors.no_connection(inside, "ConnectError"),
        errors.timed_out(inside),
        errors.moved(inside),
        errors.not_nextcloud(inside, "no JSON"),
    ):
        told = errors.for_person(failed, place)
        assert place in told.message
        assert not {"http:", "ConnectError", "JSON"} & set(str(told).split())
        assert inside not in str(told)
        assert "NEXTCLOUD_HOST" not in str(told)
    busy = errors.throttled()
    assert str(errors.for_person(busy, place)) == str(busy)
