"""What an attacker, a broken client or a hostile page tries."""

from __future__ import annotations

import logging
import re
import sqlite3
from contextlib import closing
from html import unescape
from pathlib import Path

import pytest

from tests.oauth.conftest import serving
from tests.oauth.person import Browser, Client, Served, answer, hidden, login_url, offered, way_back
from tests.support.nextcloud.server import StandIn


def execute(database: Path, sql: str) -> None:
    """Change the database as another program."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(sql)


def events(database: Path) -> list[str]:
    """Return the events of the audit log, oldest first."""
    with closing(sqlite3.connect(database)) as connection:
        return [event for [event] in connection.execute("SELECT event FROM audit_logs ORDER BY id")]


def tokens(browser: Browser, client: Client, user: str = "alice") -> dict[str, str]:
    """Sign in, and return the client's tokens."""
    code = answer(browser.sign_in(client.url(), user))["code"]
    response = client.redeem(code)
    assert response.status_code == 200
    found: dict[str, str] = response.json()
    return found


def test_the_consent_page_names_client_and_target(browser: Browser, client: Client) -> None:
    """A victim of a link sees who asks and where it leads, and no page can be framed."""
    page = browser.open(client.url())
    assert page.status_code == 200
    assert "Test client" in page.text
    assert "a program on this computer" in page.text
    assert "unverified" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Cache-Control"] == "no-store"
    assert offered(page) == ["files:read", "notes:read", "calendar:read", "contacts:read"]


def test_a_sign_in_belongs_to_the_browser_that_began_it(
    served: Served, browser: Browser, client: Client
) -> None:
    """The pages answer no other browser, with or without a cookie of its own."""
    consent = browser.open(client.url())
    with Browser(served) as victim:
        assert victim.open(str(consent.url)).status_code == 403
        own = victim.open(client.url())
        assert victim.open(str(consent.url)).status_code == 403
        form = {**hidden(consent), "action": "allow", "scope": ["files:read"]}
        assert victim.http.post("/authorize/consent", data=form).status_code == 403
        assert own.status_code == 200
    assert served.nextcloud.state.seen == []


@pytest.mark.parametrize("change", ["csrf", "origin"])
def test_a_form_of_another_site_is_refused(
    served: Served, browser: Browser, client: Client, change: str
) -> None:
    """A POST without the token of the page, or from another origin, changes nothing."""
    consent = browser.open(client.url())
    form = {**hidden(consent), "action": "allow", "scope": ["files:read"]}
    headers = {}
    if change == "csrf":
        form["csrf"] = "0" * 64
    else:
        headers["Origin"] = "https://attacker.example"
    response = browser.http.post("/authorize/consent", data=form, headers=headers)
    assert response.status_code == 403
    assert served.nextcloud.state.seen == []


def test_consent_is_asked_each_time(browser: Browser, client: Client) -> None:
    """A second sign-in of the same client in the same browser shows the page again."""
    tokens(browser, client)
    assert "Connect to Nextcloud?" in browser.open(client.url()).text


def test_a_refusal_goes_back_to_the_client(browser: Browser, client: Client) -> None:
    """The client gets access_denied with its state and the issuer; the sign-in has ended."""
    consent = browser.open(client.url())
    found = answer(way_back(browser.decide(consent, "refuse")))
    assert found == {
        "error": "access_denied",
        "state": "state-1",
        "iss": browser.served.url,
    }
    assert browser.open(str(consent.url)).status_code == 403


def test_a_person_narrows_the_scopes(browser: Browser, client: Client) -> None:
    """The token has what was chosen, and a scope that was not offered cannot be added."""
    url = client.url(scope="notes:read files:write offline_access unknown")
    assert offered(browser.open(url)) == ["files:write", "notes:read"]
    back = browser.sign_in(url, scopes=["notes:read", "contacts:read"])
    issued = client.redeem(answer(back)["code"]).json()
    assert issued["scope"] == "notes:read"
    told = client.call(issued["access_token"]).json()["result"]["structuredContent"]
    assert told["scopes"] == ["notes:read"]


def test_nothing_chosen_is_asked_again(browser: Browser, client: Client) -> None:
    """Without a scope there is nothing to grant."""
    page = browser.decide(browser.open(client.url()), scopes=[])
    assert page.status_code == 400
    assert "Choose at least one" in page.text


def test_a_code_is_redeemed_once(browser: Browser, client: Client, served: Served) -> None:
    """The second use gets nothing, and ends the tokens of the first."""
    code = answer(browser.sign_in(client.url()))["code"]
    issued = client.redeem(code).json()
    assert client.call(issued["access_token"]).status_code == 200
    assert client.redeem(code).json()["error"] == "invalid_grant"
    assert client.call(issued["access_token"]).status_code == 401
    assert client.refresh(issued["refresh_token"]).json()["error"] == "invalid_grant"
    assert "revoke_reused_mcp_grant" in events(served.database)


def test_a_code_is_for_one_client_one_verifier_and_one_address(
    served: Served, browser: Browser, client: Client
) -> None:
    """Another client, verifier, redirect URI or resource gets nothing."""
    code = answer(browser.sign_in(client.url()))["code"]
    with Client(served) as other:
        other.register()
        other.verifier = client.verifier
        assert other.redeem(code).json()["error"] == "invalid_grant"
    assert client.redeem(code, code_verifier="x" * 43).json()["error"] == "invalid_grant"
    assert client.redeem(code, redirect_uri="http://127.0.0.1:1/x").status_code == 400
    wrong = client.redeem(code, resource="https://other.example/mcp").json()
    assert wrong["error"] == "invalid_target"
    assert client.redeem(code).status_code == 200


def test_an_old_refresh_token_revokes_after_the_grace(
    served: Served, browser: Browser, client: Client
) -> None:
    """Within a minute it gets an access token alone; later the grant ends, and it is recorded."""
    old = tokens(browser, client)["refresh_token"]
    new = client.refresh(old).json()
    again = client.refresh(old).json()
    assert new["refresh_token"] not in {None, old}
    assert "refresh_token" not in again
    assert client.call(again["access_token"]).status_code == 200
    execute(served.database, "UPDATE mcp_tokens SET used_at = used_at - 61")
    assert client.refresh(old).json()["error"] == "invalid_grant"
    for token in (new, again):
        assert client.call(token["access_token"]).status_code == 401
    assert client.refresh(new["refresh_token"]).json()["error"] == "invalid_grant"
    assert events(served.database)[-1] == "revoke_reused_mcp_grant"


def test_a_token_of_another_resource_is_refused(
    served: Served, browser: Browser, client: Client
) -> None:
    """A token is stamped with this server's resource, and no other one is accepted."""
    issued = tokens(browser, client)
    execute(served.database, "UPDATE mcp_grants SET resource = 'https://other.example/mcp'")
    assert client.call(issued["access_token"]).status_code == 401


def test_mcp_needs_a_token(client: Client, served: Served) -> None:
    """Without a valid access token there is no tool, and the answer says where to sign in."""
    for token in ("", "x" * 43, "ü", "sha256:" + "x" * 36):
        response = client.call(token.encode("ascii", "ignore").decode() or "none")
        assert response.status_code == 401
        assert (
            f'resource_metadata="{served.url}/.well-known/oauth-protected-resource/mcp"'
            in response.headers["WWW-Authenticate"]
        )


def test_a_refresh_token_is_no_access_token(browser: Browser, client: Client) -> None:
    """The kind of a token counts."""
    assert client.call(tokens(browser, client)["refresh_token"]).status_code == 401


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"code_challenge": "abc"}, "invalid_request"),
        ({"code_challenge": "x" * 129}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"state": "s" * 5000}, "invalid_request"),
    ],
)
def test_a_bad_request_goes_back_to_the_client(
    browser: Browser, client: Client, change: dict[str, str], error: str
) -> None:
    """The client gets the error, its state and the issuer."""
    response = browser.http.get(client.url(**change))
    found = answer(response.headers["Location"])
    assert response.headers["Location"].startswith(client.redirect_uri)
    assert (found["error"], found["iss"]) == (error, browser.served.url)


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "unknown"},
        {"redirect_uri": "https://attacker.example/cb"},
        {"redirect_uri": "http://127.0.0.1:4711/other"},
        {"redirect_uri": "javascript:alert(1)"},
        {"client_id": "https://127.0.0.1/client.json"},
        {"client_id": "<script>alert(1)</script>"},
    ],
)
def test_an_error_never_redirects_elsewhere(
    browser: Browser, client: Client, change: dict[str, str]
) -> None:
    """An unknown client or address gives a page for the person, escaped, and no redirect."""
    response = browser.http.get(client.url(**change))
    assert response.status_code == 400
    assert response.headers["Content-Type"].startswith("text/html")
    assert "This client cannot be connected" in response.text
    assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    "place", [("https://evil.example/phish?x=1", "evil.example"), ("cursor://x/cb", "cursor:")]
)
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"response_type": "none"}, "unsupported_response_type"),
        ({"code_challenge": "abc"}, "invalid_request"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"scope": "unknown"}, "invalid_scope"),
    ],
)
def test_an_address_redirects_nobody_before_consent(
    served: Served, browser: Browser, place: tuple[str, str], change: dict[str, str], error: str
) -> None:
    """Anybody can register an address: a person sees where a link leads, and follows it or not.

    So this server is no open redirector (RFC 9700, 4.11.2). The link has the answer of OAuth.
    """
    uri, name = place
    with Client(served, uri) as client:
        assert client.register().status_code == 201
        response = browser.http.get(client.url(**change))
    assert response.status_code == 400
    assert "Location" not in response.headers
    assert "http-equiv" not in response.text
    assert name in response.text
    [link] = [unescape(one) for one in re.findall(r'href="([^"]*)"', response.text)]
    assert link.startswith(uri)
    found = answer(link)
    assert (found["error"], found["state"], found["iss"]) == (error, "state-1", served.url)


def test_nothing_that_can_be_granted_is_not_the_default(browser: Browser, client: Client) -> None:
    """A client that asks for unknown scopes alone gets no others; one that names none does."""
    for scope in ("unknown", "offline_access openid"):
        back = browser.http.get(client.url(scope=scope)).headers["Location"]
        assert answer(back)["error"] == "invalid_scope"
    for nothing in (None, "", " "):
        page = browser.open(client.url(scope=nothing))
        assert offered(page) == ["files:read", "notes:read", "calendar:read", "contacts:read"]


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "http://client.example/cb",
        "https://user@client.example/cb",
        "https://client.example/cb#x",
        "file:///etc/passwd",
        "intent://x",
        "https://client.example/" + "x" * 2000,
        "https://client.example/cb?code=1",
        "https://client.example/cb?a=1&state=",
        "https://client.example/cb?%69ss=https://x",
        "com.example.app:/cb?error",
        "http://127.0.0.1/cb?a;code=1&code=2",
    ],
)
def test_a_dangerous_redirect_uri_is_not_registered(served: Served, uri: str) -> None:
    """Only https, http on loopback and private-use schemes can be registered.

    None has what the answer adds, so that no client reads a value of somebody else.
    """
    with Client(served, uri) as client:
        response = client.register()
        assert response.status_code == 400
        assert response.json()["error"] in {"invalid_redirect_uri", "invalid_client_metadata"}


@pytest.mark.parametrize(
    "uri",
    ["https://client.example/cb?x=1", "com.example.app:/cb", "cursor://x/cb", "http://[::1]/cb"],
)
def test_a_safe_redirect_uri_is_registered(served: Served, uri: str) -> None:
    """A client is public, whatever it asked for."""
    with Client(served, uri) as client:
        response = client.register(token_endpoint_auth_method="client_secret_post")
        assert response.status_code == 201
        assert response.json()["token_endpoint_auth_method"] == "none"
        assert "client_secret" not in response.json()


def test_the_port_of_loopback_is_free(browser: Browser, client: Client) -> None:
    """A program that listens on another port each time signs in again."""
    client.redirect_uri = "http://127.0.0.1:9999/callback"
    back = browser.sign_in(client.url())
    assert back.startswith("http://127.0.0.1:9999/callback?code=")
    assert client.redeem(answer(back)["code"]).status_code == 200


def test_a_hostile_name_is_text(served: Served, browser: Browser) -> None:
    """The name of a client cannot add markup, hide itself, or fill the page."""
    with Client(served) as client:
        name = "<script>alert(1)</script>\u202e\u0000" + "x" * 500
        client.register(client_name=name)
        page = browser.open(client.url())
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "\u202e" not in page.text
    assert "x" * 100 not in page.text


def test_a_new_app_password_replaces_the_old_one(
    served: Served, browser: Browser, client: Client
) -> None:
    """The old one is deleted in Nextcloud with itself; the new one stays alone."""
    tokens(browser, client)
    alice = served.nextcloud.state.users["alice"]
    [old] = alice.app_passwords
    tokens(browser, client)
    [new] = alice.app_passwords
    assert new != old
    assert served.nextcloud.state.wrong_logins == 0


def test_the_login_link_is_nextclouds_and_needs_the_browser(
    served: Served, browser: Browser, client: Client
) -> None:
    """The page that waits links to Nextcloud, and says that the link is for this tab alone."""
    waiting = browser.decide(browser.open(client.url()))
    assert login_url(waiting).startswith(served.nextcloud.url)
    assert "Never open such a link" in waiting.text
    assert 'rel="noopener noreferrer"' in waiting.text
    state = browser.http.get(str(waiting.url), headers={"Accept": "application/json"})
    assert state.json() == {"state": "waiting"}
    script = browser.http.get("/static/wait.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    with Browser(served) as other:
        assert other.http.get(str(waiting.url)).status_code == 403


def test_nextcloud_that_is_away_is_said(served: Served, browser: Browser, client: Client) -> None:
    """A redirect of Nextcloud is not followed, and the page says what to set."""
    served.nextcloud.state.redirect_to = "https://elsewhere.example"
    page = browser.decide(browser.open(client.url()))
    assert page.status_code == 502
    assert "tell the operator of this server" in page.text


def test_an_account_that_cannot_be_read_ends_the_sign_in(
    served: Served, browser: Browser, client: Client
) -> None:
    """The page says why, nothing is stored, and the sign-in cannot go on."""
    waiting = browser.decide(browser.open(client.url()))
    served.nextcloud.state.grant(login_url(waiting), "alice")
    served.nextcloud.state.users["alice"].enabled = False
    page = browser.after_pause(waiting)
    assert 'role="alert"' in page.text
    assert browser.open(str(waiting.url)).status_code == 403
    with closing(sqlite3.connect(served.database)) as connection:
        assert connection.execute("SELECT count(*) FROM app_passwords").fetchone() == (0,)


def test_a_form_of_this_server_has_an_origin(browser: Browser, client: Client) -> None:
    """The pages let a browser name their origin to this server, and to no other."""
    consent = browser.open(client.url())
    assert consent.headers["Referrer-Policy"] == "same-origin"
    form = {**hidden(consent), "action": "allow", "scope": ["files:read"]}
    headers = {"Origin": browser.served.url}
    response = browser.http.post("/authorize/consent", data=form, headers=headers)
    assert response.status_code == 303


def test_a_client_revokes_its_tokens(served: Served, browser: Browser, client: Client) -> None:
    """A public client needs no secret; another one revokes nothing."""
    issued = tokens(browser, client)
    for client_id, status in (("another", 200), (client.id, 401)):
        form = {"token": issued["refresh_token"], "client_id": client_id}
        assert client.http.post("/revoke", data=form).status_code == 200
        assert client.call(issued["access_token"]).status_code == status
    assert client.http.post("/revoke", data={"token": "x"}).status_code == 400


def test_an_unknown_client_registers_again(client: Client) -> None:
    """After its registration was deleted, which 401 with ``invalid_client`` tells it."""
    client.id = "swept"
    for response in (client.refresh("x" * 43), client.redeem("x" * 43)):
        assert (response.status_code, response.json()["error"]) == (401, "invalid_client")


def test_the_metadata_names_what_is_there(served: Served, client: Client) -> None:
    """Public clients first, the issuer, documents, and the resource at both addresses."""
    server = client.http.get("/.well-known/oauth-authorization-server").json()
    assert server["token_endpoint_auth_methods_supported"][0] == "none"
    assert server["issuer"] == served.url
    assert server["client_id_metadata_document_supported"] is True
    assert server["authorization_response_iss_parameter_supported"] is True
    for path in ("", "/mcp"):
        found = client.http.get(f"/.well-known/oauth-protected-resource{path}").json()
        assert found["resource"] == served.resource
        assert found["scopes_supported"] == [
            "files:read",
            "notes:read",
            "calendar:read",
            "contacts:read",
        ]


def test_a_foreign_host_header_is_refused(browser: Browser, client: Client) -> None:
    """A page whose name points to this machine reaches no tool."""
    token = tokens(browser, client)["access_token"]
    assert client.call(token, Host="attacker.example").status_code == 421
    assert client.call(token, Origin="https://attacker.example").status_code == 403


def test_registering_is_limited(client: Client) -> None:
    """A flood of registrations is answered with 429 and when to try again."""
    answers = (client.register() for _ in range(100))
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["Retry-After"]) >= 1


def test_read_only_grants_nothing_that_writes(token_db: Path, nextcloud: StandIn) -> None:
    """READ_ONLY takes the scopes that write from every page and document."""
    with (
        serving(token_db, nextcloud, read_only=True) as served,
        Client(served) as client,
        Browser(served) as browser,
    ):
        client.register()
        page = browser.open(client.url(scope="files:read files:write"))
        assert offered(page) == ["files:read"]


def test_no_secret_is_logged(
    served: Served, browser: Browser, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither tokens nor app passwords are in a log line of the server."""
    caplog.set_level(logging.DEBUG)
    issued = tokens(browser, client)
    client.call(issued["access_token"])
    [password] = served.nextcloud.state.users["alice"].app_passwords
    lines = [
        record.getMessage() for record in caplog.records if not record.name.startswith("httpcore")
    ]
    for secret in (password, issued["access_token"], issued["refresh_token"]):
        assert not any(secret in line for line in lines)
