"""What people, clients and tools are told while the database is locked or away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nextcloud_mcp_server.backends.postgresql import limits
from nextcloud_mcp_server.backends.sqlite import pool
from nextcloud_mcp_server.server.starting import RETRY_AFTER
from tests.oauth.conftest import serving
from tests.oauth.person import Browser, Client, Served, answer, login_url, way_back
from tests.support.child import Child
from tests.support.nextcloud.server import StandIn
from tests.support.postgresql import Server, running

if TYPE_CHECKING:
    import httpx2

SENTENCE = "This server cannot use its database at the moment."

#: Holds the only lock for writers until it gets a line.
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
print("released", flush=True)
"""


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Let another process hold the lock of a database during the ``with`` block."""
    holder = Child(HOLDER, database)
    try:
        assert holder.answer() == "ready"
        yield
        assert holder.ask("") == "released"
    finally:
        holder.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store wait for a lock for a fifth of a second."""
    monkeypatch.setattr(pool, "BUSY_TIMEOUT", 0.2)


@pytest.fixture
def served(impatient: None, token_db: Path, nextcloud: StandIn) -> Iterator[Served]:
    """A server that does not wait long for a lock."""
    with serving(token_db, nextcloud) as found:
        yield found


def told(response: httpx2.Response, served: Served) -> str:
    """Check what every such answer has, and return its text."""
    assert response.status_code == 503
    assert response.headers["Retry-After"] == str(RETRY_AFTER)
    assert response.headers["Cache-Control"] == "no-store"
    assert SENTENCE in response.text
    assert response.headers["X-Request-ID"] in response.text
    for secret in ("Traceback", "sqlite", "postgresql", str(served.database)):
        assert secret not in response.text
    return response.text


def is_page(response: httpx2.Response, served: Served) -> None:
    """Check that a person gets a page that says what to do."""
    text = told(response, served)
    assert response.headers["Content-Type"].startswith("text/html")
    assert "load this page again" in text
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]


def is_oauth(response: httpx2.Response, served: Served) -> None:
    """Check that a client gets an error of OAuth, also one that runs in a browser."""
    told(response, served)
    assert response.json()["error"] == "server_error"


def tokens_of(browser: Browser, client: Client) -> dict[str, Any]:
    """Connect a client and return its tokens."""
    found: dict[str, Any] = client.redeem(answer(browser.sign_in(client.url()))["code"]).json()
    return found


def test_while_the_database_is_locked_everybody_is_told_so(
    served: Served, browser: Browser, client: Client
) -> None:
    """What writes is answered with 503, what reads works, and afterwards everything does."""
    tokens = tokens_of(browser, client)
    page = browser.open(client.url())
    with locked(served.database):
        is_oauth(
            client.http.post("/register", json={"redirect_uris": [client.redirect_uri]}), served
        )
        client.http.headers["Origin"] = "https://client.example.com"
        refused = client.refresh(tokens["refresh_token"])
        is_oauth(refused, served)
        assert refused.headers["Access-Control-Allow-Origin"] == "*"
        del client.http.headers["Origin"]
        is_page(browser.decide(page), served)
        leads = browser.http.get(client.url())
        assert answer(leads.headers["Location"])["error"] == "temporarily_unavailable"
        assert client.call(tokens["access_token"]).json()["result"]["isError"] is False
    assert client.refresh(tokens["refresh_token"]).status_code == 200
    assert browser.decide(page).status_code == 200


def test_a_tool_that_cannot_write_is_a_tool_error(
    served: Served, browser: Browser, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is told to try again; the log has the reason on one line, and no traceback."""
    tokens = tokens_of(browser, client)
    with locked(served.database):
        result = client.call(tokens["access_token"], tool="disconnect").json()["result"]
    assert result["isError"] is True
    assert SENTENCE in result["content"][0]["text"]
    assert str(served.database) not in str(result)
    [record] = [one for one in caplog.records if one.getMessage().startswith("Tool disconnect")]
    assert record.exc_info is None
    assert "[lock-timeout]" in record.getMessage()


def test_a_password_that_could_not_be_stored_is_stored_later(
    served: Served, browser: Browser, client: Client
) -> None:
    """Nextcloud gives it out once: the sign-in goes on when the database can be written again."""
    waiting = browser.decide(browser.open(client.url()))
    password = served.nextcloud.state.grant(login_url(waiting), "alice")
    with locked(served.database):
        is_page(browser.after_pause(waiting), served)
    done = browser.after_pause(waiting)
    assert client.redeem(answer(way_back(done))["code"]).status_code == 200
    assert list(served.nextcloud.state.users["alice"].app_passwords) == [password]


def test_the_previous_password_lives_until_another_is_stored(
    served: Served, browser: Browser, client: Client
) -> None:
    """A second sign-in that cannot store its password does not break the first."""
    tokens = tokens_of(browser, client)
    waiting = browser.decide(browser.open(client.url()))
    served.nextcloud.state.grant(login_url(waiting), "alice")
    with locked(served.database):
        is_page(browser.after_pause(waiting), served)
        assert client.call(tokens["access_token"]).json()["result"]["isError"] is False
    way_back(browser.after_pause(waiting))
    assert len(served.nextcloud.state.users["alice"].app_passwords) == 1


@pytest.fixture(scope="module")
def stoppable() -> Iterator[Server]:
    """A server of PostgreSQL that a test may stop."""
    with running() as server:
        yield server


def test_while_postgresql_is_away_everybody_is_told_so(
    stoppable: Server, nextcloud: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages, endpoints, tools, the status and the metrics answer before, meanwhile and after."""
    monkeypatch.setattr(limits, "RETRY", 2.0)
    _, url = stoppable.schema()
    with serving(url, nextcloud) as served, Browser(served) as browser, Client(served) as client:
        operator_sees(client, "at-head", grants=0)
        assert client.register().status_code == 201
        tokens = tokens_of(browser, client)
        home = browser.sign_in_at_home()
        assert "Test client" in home.text
        operator_sees(client, "at-head", grants=1)
        stoppable.stop("fast")
        try:
            is_page(browser.open("/"), served)
            is_page(browser.http.get(client.url()), served)
            is_oauth(client.refresh(tokens["refresh_token"]), served)
            called = client.call(tokens["access_token"])
            told(called, served)
            assert called.json()["error"]["code"] == -32603
            operator_sees(client, None, grants=None)
        finally:
            stoppable.start()
        assert "Test client" in browser.open("/").text
        assert client.call(tokens["access_token"]).json()["result"]["isError"] is False
        operator_sees(client, "at-head", grants=1)


def operator_sees(client: Client, state: str | None, grants: int | None) -> None:
    """Check the status, as JSON and as a page, and the metrics; None if the database is away."""
    facts = client.http.get("/status", headers={"Accept": "application/json"}).json()
    assert facts["database"]["engine"] == "postgresql"
    if grants is None:
        assert facts["database"]["status"] == "unavailable"
        assert facts["database"]["reason"]
    else:
        assert facts["database"]["state"] == state
    for part in ("keys", "migrations", "grants"):
        assert ("reason" in facts[part]) is (grants is None), part
    assert "no backups of this program" in facts["backups"]["reason"]
    page = client.http.get("/status")
    assert page.status_code == 200
    assert "postgresql" in page.text
    metrics = client.http.get("/metrics")
    assert metrics.status_code == 200
    found = re.findall(
        r'^nextcloud_mcp_grants\{state="active"\} (\S+)$', metrics.text, re.MULTILINE
    )
    assert [float(one) for one in found] == ([] if grants is None else [float(grants)])
    for text in (str(facts), page.text, metrics.text):
        assert "host=" not in text
