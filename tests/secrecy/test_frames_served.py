"""At no line of our frames does a variable show a secret, while people sign in and call tools.

Every line is looked at as a traceback with locals would show it, which is more than to fail at
every line.
"""

from __future__ import annotations

import linecache
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from nextcloud_mcp_server.oauth import home_pages, login
from tests.oauth.conftest import serving
from tests.oauth.person import Browser, Client, login_url
from tests.secrecy.planted import forms
from tests.support.nextcloud.server import StandIn, running
from tests.support.nextcloud.state import State

_ROOMS: Final = tuple(
    f"{os.sep}nextcloud_mcp_server{os.sep}{room}{os.sep}"
    for room in ("auth", "nextcloud", "oauth", "pages", "server", "tools")
)

#: What each planted secret begins with.
MARK: Final = "pLaNt3dMARK"

_MARKS: Final = tuple(form.decode("latin-1") for form in forms(MARK))

Shown = set[tuple[str, str, str]]


def planted(length: int, numbers: Iterator[int] = count()) -> str:  # noqa: B008 - one for all
    """Return a new secret of a length."""
    return f"{MARK}{next(numbers):05}".ljust(length, "x")


@contextmanager
def looking() -> Iterator[Shown]:
    """Collect file, function and name of each variable that shows a secret at some line."""
    shown: Shown = set()

    def at_line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        code = frame.f_code
        if "hidden(" in linecache.getline(code.co_filename, frame.f_lineno):
            # The line that hides it.
            return at_line
        for name, value in frame.f_locals.items():
            try:
                text = repr(value)
            except Exception:  # noqa: BLE001, S112 - an object that is not complete
                continue
            if any(mark in text for mark in _MARKS):
                file = code.co_filename.rpartition(f"nextcloud_mcp_server{os.sep}")[2]
                shown.add((file, code.co_name, name))
        return at_line

    def at_call(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        is_ours = any(room in frame.f_code.co_filename for room in _ROOMS)
        return at_line if is_ours else None

    before = sys.gettrace()
    threading.settrace(at_call)
    try:
        yield shown
    finally:
        threading.settrace(before)


@pytest.fixture
def nextcloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A Nextcloud and a server whose secrets are planted."""
    token_hex = secrets.token_hex
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: planted(size * 4 // 3 + 1))
    # The tokens of a login; the others are ids.
    monkeypatch.setattr(secrets, "token_hex", lambda n: planted(128) if n == 64 else token_hex(n))

    def app_password(self: State, user_id: str, name: str = "test") -> str:
        password = planted(72)
        self.users[user_id].app_passwords[password] = name
        return password

    monkeypatch.setattr(State, "app_password", app_password)
    with running() as found:
        yield found


def use(database: Path, nextcloud: StandIn) -> Shown:
    """Sign in, call, refresh, widen, disconnect and fail; return what was shown."""
    with (
        looking() as shown,
        serving(database, nextcloud) as served,
        Browser(served) as browser,
        Client(served) as client,
    ):
        client.register()
        consent = browser.open(client.url())
        nextcloud.state.maintenance = True
        browser.decide(consent)
        nextcloud.state.maintenance = False
        code = browser.sign_in(client.url()).partition("code=")[2].partition("&")[0]
        client.redeem(code, code_verifier="x" * 43)
        issued = client.redeem(code).json()
        assert issued["access_token"].startswith(MARK)
        assert client.call(issued["access_token"]).status_code == 200
        client.refresh(issued["refresh_token"])
        client.refresh(issued["refresh_token"])
        client.call(issued["access_token"], Host="elsewhere.example")
        page = browser.sign_in_at_home()
        asked = browser.open(f"{home_pages.SCOPES}?grant=x&scope=files:write")
        assert asked.status_code == 404
        asked = browser.send(home_pages.DISCONNECT, page)
        nextcloud.state.maintenance = True
        browser.send(home_pages.DISCONNECT, asked)
        nextcloud.state.maintenance = False
        waiting = browser.decide(browser.open(client.url()))
        nextcloud.state.grant(login_url(waiting), "alice")
        nextcloud.state.users["alice"].enabled = False
        browser.after_pause(waiting)
        client.http.post("/revoke", data={"token": issued["refresh_token"], "client_id": client.id})
        client.http.get("/status", headers={"Authorization": f"Bearer {planted(43)}"})
    return shown


def test_no_line_shows_a_secret(token_db: Path, nextcloud: StandIn) -> None:
    """Neither tokens, codes and cookies nor poll tokens, login links and app passwords."""
    assert sorted(use(token_db, nextcloud)) == []


def test_a_plain_variable_is_seen(
    token_db: Path, nextcloud: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: where a password is not hidden, its variable is found."""
    monkeypatch.setattr(login, "hidden", lambda value: value)
    assert ("oauth/login.py", "_client", "password") in use(token_db, nextcloud)
