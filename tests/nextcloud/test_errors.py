"""Each thing that goes wrong has its own error, with what to do next."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from datetime import date
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from nextcloud_mcp_server.nextcloud import connection
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.connection import Login, open_http
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.login_flow import begin_login, poll_login
from nextcloud_mcp_server.nextcloud.unreachable import why
from tests.nextcloud.conftest import AGENT, connect
from tests.support.nextcloud import xml
from tests.support.nextcloud.server import StandIn, served
from tests.support.nextcloud.state import ATTEMPTS, Collection

if TYPE_CHECKING:
    from starlette.requests import Request

PASSWORD = "planted-secret-0123456789"


async def failing(call: Awaitable[object]) -> NextcloudError:
    """Return the error that a call raises."""
    with pytest.raises(NextcloudError) as caught:
        await call
    assert caught.value.remedy
    return caught.value


def requests(stand_in: StandIn) -> int:
    """Return the number of requests so far."""
    return len(stand_in.state.seen)


# The password.


async def test_a_refused_password_is_sent_once(stand_in: StandIn, http: httpx2.AsyncClient) -> None:
    """After a 401 every call raises the error for reconnecting, without a request."""
    client = connect(stand_in, http, "alice", PASSWORD)
    first = await failing(client.account.whoami())
    assert (first.code, client.refused, requests(stand_in)) == ("reconnect", True, 1)
    for call in (client.files.list(), client.notes.search(), client.account.capabilities()):
        assert (await failing(call)).code == "reconnect"
    assert requests(stand_in) == 1


async def test_many_calls_at_once_try_a_wrong_password_once(
    stand_in: StandIn, http: httpx2.AsyncClient
) -> None:
    """Calls that begin together wait for the first, so that nobody is locked out."""
    client = connect(stand_in, http, "alice", PASSWORD)
    calls = (client.account.whoami() for _ in range(20))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert {getattr(error, "code", None) for error in found} == {"reconnect"}
    assert stand_in.state.wrong_logins == 1


async def test_a_password_that_dies_is_tried_a_few_times_at_most(
    stand_in: StandIn, http: httpx2.AsyncClient
) -> None:
    """A revoked password that worked is refused at most four times, for calls under way."""
    client = connect(stand_in, http, "alice")
    await client.account.whoami()
    stand_in.state.users["alice"].app_passwords.clear()
    calls = (client.account.whoami() for _ in range(20))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert {getattr(error, "code", None) for error in found} == {"reconnect"}
    assert 1 <= stand_in.state.wrong_logins <= 4


async def test_a_lockout_is_for_everybody(stand_in: StandIn, http: httpx2.AsyncClient) -> None:
    """After more than ten wrong logins a right password gets `throttled`; the login flow works."""
    bob = connect(stand_in, http, "bob")
    await bob.account.whoami()
    for _ in range(ATTEMPTS + 1):
        await failing(connect(stand_in, http, "alice", PASSWORD).account.whoami())
    assert (await failing(bob.account.whoami())).code == "throttled"
    assert (await failing(bob.files.list())).code == "throttled"
    assert not bob.refused
    assert (await begin_login(http, Server.parse(stand_in.url), AGENT)).poll_token


async def test_the_password_is_in_no_text(stand_in: StandIn, http: httpx2.AsyncClient) -> None:
    """Neither repr nor vars nor a traceback with its variables has the password."""
    client = connect(stand_in, http, "alice", PASSWORD)
    encoded = Login("alice@example.com", PASSWORD)._Login__header.removeprefix("Basic ")  # type: ignore[attr-defined]
    error = await failing(client.files.list())
    lines = traceback.TracebackException.from_exception(error, capture_locals=True)
    login = client._connection.login
    texts = ["".join(lines.format()), repr(client), repr(vars(client)), repr(login)]
    texts += [repr(vars(client._connection)), repr(vars(login)), repr(error.as_dict())]
    for text in texts:
        assert PASSWORD not in text
        assert encoded not in text
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(login)


async def test_no_traceback_of_a_lost_connection_has_the_password(
    http: httpx2.AsyncClient,
) -> None:
    """The frames of the HTTP client, which hold the header, are not part of the error."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client = _at(http, f"http://127.0.0.1:{port}")
    error = await failing(client.account.whoami())
    assert error.code == "no-connection"
    assert error.__context__ is None
    assert error.__cause__ is None


async def test_a_deleted_password_ends_the_client(stand_in: StandIn, alice: Nextcloud) -> None:
    """The app password deletes itself, and no request follows."""
    await alice.account.delete_app_password()
    assert stand_in.state.users["alice"].app_passwords == {}
    before = requests(stand_in)
    assert (await failing(alice.account.whoami())).code == "reconnect"
    assert requests(stand_in) == before


async def test_a_login_password_cannot_delete_itself(
    stand_in: StandIn, http: httpx2.AsyncClient
) -> None:
    """Only an app password can be deleted so; another one stays in use."""
    client = connect(stand_in, http, "alice", "alice-login-password")
    assert (await failing(client.account.delete_app_password())).code == "forbidden"
    assert (await client.account.whoami()).id == "alice"


# Cookies.


async def test_no_cookie_is_stored_or_sent(stand_in: StandIn, http: httpx2.AsyncClient) -> None:
    """Two persons over one client stay apart, and a wrong password is refused."""
    alice, bob = connect(stand_in, http, "alice"), connect(stand_in, http, "bob")
    for _ in range(3):
        users = await asyncio.gather(alice.account.whoami(), bob.account.whoami())
        assert [user.id for user in users] == ["alice", "bob"]
    assert list(http.cookies.jar) == []
    assert all("cookie" not in seen.headers for seen in stand_in.state.seen)
    assert stand_in.state.sessions
    wrong = connect(stand_in, http, "bob", PASSWORD)
    assert (await failing(wrong.account.whoami())).code == "reconnect"


async def test_a_client_with_cookies_is_fooled(stand_in: StandIn) -> None:
    """Negative control: with a jar, bob's wrong password answers with alice's account."""
    async with httpx2.AsyncClient(trust_env=False) as with_jar:
        await connect(stand_in, with_jar, "alice").account.whoami()
        user = await connect(stand_in, with_jar, "bob", PASSWORD).account.whoami()
    assert user.id == "alice"


async def test_the_environment_is_not_read(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy nor a .netrc of the environment is used."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with open_http() as http:
        assert (await connect(stand_in, http, "alice").account.whoami()).id == "alice"


# The server.


async def test_maintenance(stand_in: StandIn, alice: Nextcloud, http: httpx2.AsyncClient) -> None:
    """Every part of Nextcloud in maintenance has the same error, and works again afterwards."""
    await alice.account.whoami()
    await alice.account.capabilities()
    stand_in.state.maintenance = True
    server = Server.parse(stand_in.url)
    calls: tuple[Awaitable[object], ...] = (
        alice.account.whoami(),
        alice.files.list(),
        alice.notes.search(),
        begin_login(http, server, AGENT),
        poll_login(http, server, AGENT, "token"),
    )
    for call in calls:
        assert (await failing(call)).code == "maintenance"
    stand_in.state.maintenance = False
    assert (await alice.account.whoami()).id == "alice"


async def test_a_disabled_account(stand_in: StandIn, alice: Nextcloud) -> None:
    """WebDAV says that the account is disabled; OCS does not, and the person must reconnect."""
    await alice.account.whoami()
    stand_in.state.users["alice"].enabled = False
    error = await failing(alice.files.list())
    assert (error.code, alice.refused) == ("account-disabled", False)
    assert (await failing(alice.account.whoami())).code == "reconnect"


async def test_a_redirect_is_not_followed(stand_in: StandIn, alice: Nextcloud) -> None:
    """The error names the new host, and no request goes there."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        target = f"http://127.0.0.1:{other.getsockname()[1]}"
        stand_in.state.redirect_to = target
        error = await failing(alice.account.whoami())
        assert error.code == "moved"
        assert f"{target}," in error.message
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize("target", ["http://[", "http://a]b", "//", "http://\u2100"])
async def test_a_redirect_to_no_address(stand_in: StandIn, alice: Nextcloud, target: str) -> None:
    """An address that cannot be parsed is named by no host."""
    stand_in.state.redirect_to = target
    assert (await failing(alice.account.whoami())).code == "moved"


@pytest.mark.parametrize("link", ["http://[", "https://a]b/x", "http://", "javascript:alert(1)"])
@pytest.mark.parametrize("browser", [None, Server.parse("https://cloud.example.com")])
async def test_a_login_at_no_address(
    stand_in: StandIn, http: httpx2.AsyncClient, link: str, browser: Server | None
) -> None:
    """A page of a login that no browser can open is not Nextcloud's."""
    stand_in.state.login_link = link
    login = begin_login(http, Server.parse(stand_in.url), AGENT, browser=browser)
    assert (await failing(login)).code == "not-nextcloud"


async def test_an_absent_app_is_named(stand_in: StandIn, alice: Nextcloud) -> None:
    """Without the app Notes its calls say so."""
    stand_in.state.notes_enabled = False
    error = await failing(alice.notes.read(1))
    assert error.code == "app-missing"
    assert "Notes" in error.message


async def test_an_app_that_was_disabled_meanwhile(stand_in: StandIn, alice: Nextcloud) -> None:
    """The capabilities are five minutes old: an address that is no route says it too."""
    note = await alice.notes.create("Title", "text")
    stand_in.state.notes_enabled = False
    for call in (alice.notes.search(), alice.notes.read(note.id)):
        assert (await failing(call)).code == "app-missing"


async def test_links_that_are_not_allowed(stand_in: StandIn, alice: Nextcloud) -> None:
    """Without public links nothing is shared."""
    stand_in.state.links_enabled = False
    stand_in.state.put_file("alice", "a.txt", b"a")
    assert (await failing(alice.files.share("a.txt"))).code == "app-missing"
    assert stand_in.state.shares == []


async def test_nothing_is_deleted_without_a_trash_bin(stand_in: StandIn, alice: Nextcloud) -> None:
    """A deletion that could not be undone is refused."""
    stand_in.state.put_file("alice", "a.txt", b"a")
    stand_in.state.trash_enabled = False
    assert (await failing(alice.files.delete("a.txt"))).code == "no-trash"
    assert ("a.txt",) in stand_in.state.users["alice"].files


async def test_a_full_account(stand_in: StandIn, alice: Nextcloud) -> None:
    """A write over the quota changes nothing."""
    stand_in.state.users["alice"].quota = 10
    assert (await failing(alice.files.write("a.txt", "x" * 11))).code == "over-quota"
    assert (await alice.files.list()).items == ()
    assert (await alice.account.whoami()).quota == 10


@pytest.mark.parametrize("path", ["no.txt", "no/folder/a.txt"])
async def test_a_missing_file(alice: Nextcloud, path: str) -> None:
    """Reading, listing, moving and deleting say what is missing."""
    calls = [alice.files.read(path), alice.files.list(path), alice.files.delete(path)]
    for call in (*calls, alice.files.move(path, "b.txt")):
        error = await failing(call)
        assert (error.code, path in error.message) == ("not-found", True)


async def test_a_file_of_another_person_is_not_found(stand_in: StandIn, alice: Nextcloud) -> None:
    """A user id in a path is the name of a folder, and never another account."""
    stand_in.state.put_file("bob", "secret.txt", b"bob")
    for path in ("bob/secret.txt", "files/bob/secret.txt"):
        assert (await failing(alice.files.read(path))).code == "not-found"


async def test_an_old_calendar_id(alice: Nextcloud) -> None:
    """A calendar, an event and a task that are gone are not found."""
    assert (await failing(anext(alice.calendars.find("VEVENT", "gone")))).code == "not-found"
    assert (await failing(alice.calendars.get("personal", "gone.ics"))).code == "not-found"


async def test_a_read_only_calendar(stand_in: StandIn, alice: Nextcloud) -> None:
    """A calendar that cannot be written is listed so, and tasks get another one."""
    calendar = stand_in.state.users["alice"].calendars["personal"]
    calendar.components, calendar.read_only = ("VEVENT", "VTODO"), True
    [found] = await alice.calendars.list()
    assert not found.writable
    assert (await alice.calendars.for_tasks())[0] != "personal"


async def test_an_event_in_a_calendar_that_cannot_be_written(
    stand_in: StandIn, alice: Nextcloud
) -> None:
    """Nextcloud does not admit that there is a calendar which somebody else only lets be read."""
    stand_in.state.users["alice"].calendars["team"] = Collection(
        "Team", ("VEVENT",), read_only=True, shared=True
    )
    day = date(2026, 5, 1)
    for calendar in ("team", "gone"):
        error = await failing(
            alice.events.create(
                calendar, title="x", start=day, end=date(2026, 5, 2), zone=ZoneInfo("UTC")
            )
        )
        assert error.code == "not-found"
        assert f"no calendar '{calendar}' that can be written" in error.message


async def test_a_series_with_too_many_occurrences(http: httpx2.AsyncClient) -> None:
    """Nextcloud lists 3,500 occurrences of one series, and fails at more."""
    kind = "Sabre\\VObject\\Recur\\MaxInstancesExceededException"
    message = "Recurring events are only allowed to generate 3500"
    with served(_answering(lambda _request: xml.failure(500, kind, message))) as url:
        error = await failing(_at(http, url).account.whoami())
    assert (error.code, error.remedy) == ("bad-input", "Give a shorter range.")


async def test_nothing_listens(http: httpx2.AsyncClient) -> None:
    """A refused connection names the address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = await failing(begin_login(http, Server.parse(f"http://127.0.0.1:{port}"), AGENT))
    assert error.code == "no-connection"
    assert f"http://127.0.0.1:{port}: the connection was refused." in error.message


async def test_a_login_that_waits_is_counted_apart(stand_in: StandIn) -> None:
    """The 404 of a login that is not finished is no error in the metrics."""
    counted: list[str] = []
    async with open_http(count=counted.append) as http:
        server = Server.parse(stand_in.url)
        started = await begin_login(http, server, AGENT)
        assert await poll_login(http, server, AGENT, started.poll_token) is None
    assert counted == ["2xx", "waiting"]


async def test_a_host_that_is_unknown(http: httpx2.AsyncClient) -> None:
    """An unknown name is told from a server that is down."""
    error = await failing(begin_login(http, Server.parse("https://cloud.invalid"), AGENT))
    assert error.code == "no-connection"
    assert "the name of the host is unknown" in error.message


async def test_a_server_without_https(http: httpx2.AsyncClient, stand_in: StandIn) -> None:
    """An address with https of a server that has none is not called unreachable."""
    address = stand_in.url.replace("http://", "https://")
    error = await failing(begin_login(http, Server.parse(address), AGENT))
    assert "it does not speak https there" in error.message


async def test_a_certificate_that_is_not_accepted() -> None:
    """The reason of OpenSSL is in the words."""
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed")
    refused.verify_message = "certificate has expired"
    group = ExceptionGroup("all", [ValueError(), refused])
    error = httpx2.ConnectError("x")
    error.__cause__ = group
    assert why(error) == "its certificate is not accepted (certificate has expired)"
    assert why(httpx2.ReadError("x")) == "ReadError"


async def test_a_server_that_does_not_answer() -> None:
    """A server that accepts and keeps silent is a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_http(timeout=0.2) as http:
            client = _at(http, f"http://127.0.0.1:{silent.getsockname()[1]}")
            assert (await failing(client.account.whoami())).code == "timeout"


async def test_an_endless_answer(http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes byte by byte ends at the deadline of the request."""

    async def drip() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    monkeypatch.setattr(connection, "DEADLINE", 0.3)
    with served(_answering(lambda _request: StreamingResponse(drip()))) as url:
        assert (await failing(_at(http, url).account.whoami())).code == "timeout"


async def test_a_large_answer(http: httpx2.AsyncClient) -> None:
    """A body over the limit is given up, however long it says that it is."""
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1024 * 1024
            yield b"x" * 1024 * 1024
            await asyncio.sleep(0.001)

    with served(_answering(lambda _request: StreamingResponse(endless()))) as url:
        assert (await failing(_at(http, url).account.whoami())).code == "too-large"
    assert sent < 4 * connection.BODY


async def test_a_compressed_answer(http: httpx2.AsyncClient) -> None:
    """A compressed body, which nobody asked for, is not expanded."""
    bomb = gzip.compress(b"0" * 5_000_000)

    def answer(request: Request) -> Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return Response(bomb, headers={"Content-Encoding": "gzip"})

    with served(_answering(answer)) as url:
        error = await failing(_at(http, url).account.whoami())
    assert error.code == "not-nextcloud"
    assert "compressed" in error.message


BILLION = b"""<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>
<d:multistatus xmlns:d="DAV:"><d:response><d:href>&b;</d:href></d:response></d:multistatus>"""


@pytest.mark.parametrize(
    "body",
    [b"", b"<html></html>", b"not xml", b"\xff\xfe", BILLION, BILLION.decode().encode("utf-16")],
)
async def test_an_answer_that_is_no_webdav(http: httpx2.AsyncClient, body: bytes) -> None:
    """A page, rubbish and a DTD are not an answer of Nextcloud."""
    user = b'{"ocs": {"data": {"id": "alice"}}}'

    def answer(request: Request) -> Response:
        return Response(user if request.method == "GET" else body, 200)

    with served(_answering(answer)) as url:
        assert (await failing(_at(http, url).files.list())).code == "not-nextcloud"


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b"[]", b'{"ocs": 1}', b'{"ocs":{"data":[]}}']
)
async def test_an_answer_that_is_no_ocs(http: httpx2.AsyncClient, body: bytes) -> None:
    """A page of another program is named, in a login and with a password."""
    with served(_answering(lambda _request: Response(body))) as url:
        assert (await failing(_at(http, url).account.whoami())).code == "not-nextcloud"
        server = Server.parse(url)
        assert (await failing(begin_login(http, server, AGENT))).code == "not-nextcloud"
        assert (await failing(poll_login(http, server, AGENT, "t"))).code == "not-nextcloud"


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_web_server_without_a_nextcloud(http: httpx2.AsyncClient, status: int) -> None:
    """What answers to the login or the account as no Nextcloud does is named, with its folder."""
    with served(_answering(lambda _request: Response("none", status))) as url:
        server = Server.parse(f"{url}/cloud")
        found = [await failing(begin_login(http, server, AGENT))]
        if status == 404:
            client = _at(http, f"{url}/cloud")
            found += [await failing(client.account.whoami())]
            found += [await failing(client.account.capabilities())]
            assert not client.refused
        else:
            found += [await failing(poll_login(http, server, AGENT, "t"))]
    assert {error.code for error in found} == {"not-nextcloud"}
    assert all(f"{url}/cloud does not answer as Nextcloud does" in e.message for e in found)


async def test_a_401_without_a_password(http: httpx2.AsyncClient) -> None:
    """A server that asks for a password before the login is no Nextcloud; none was refused."""
    with served(_answering(lambda _request: Response("who", 401))) as url:
        server = Server.parse(url)
        for call in (begin_login(http, server, AGENT), poll_login(http, server, AGENT, "t")):
            assert (await failing(call)).code == "not-nextcloud"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "text/html", "not-nextcloud"),
        (400, "text/plain", "nextcloud-failed"),
        (413, "text/html", "forbidden"),
        (423, "text/html", "forbidden"),
        (500, "text/html", "nextcloud-failed"),
        (502, "text/html", "nextcloud-failed"),
        (503, "text/html", "nextcloud-failed"),
    ],
)
async def test_other_statuses(http: httpx2.AsyncClient, status: int, kind: str, code: str) -> None:
    """Each other status has an error too, and no password is given up for it."""
    with served(_answering(lambda _request: Response("x", status, media_type=kind))) as url:
        client = _at(http, url)
        assert (await failing(client.account.whoami())).code == code
        assert not client.refused


def _answering(answer: Callable[[Request], Response]) -> Starlette:
    async def endpoint(request: Request) -> Response:
        return answer(request)

    methods = ["GET", "POST", "PROPFIND"]
    return Starlette(routes=[Route("/{path:path}", endpoint, methods=methods)])


def _at(http: httpx2.AsyncClient, url: str) -> Nextcloud:
    return Nextcloud(
        http, Server.parse(url), login_name="alice", app_password=PASSWORD, user_agent=AGENT
    )


# The error itself.


async def test_an_error_can_be_pickled(alice: Nextcloud) -> None:
    """It keeps its type, its code and its remedy."""
    error = await failing(alice.files.read("no.txt"))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is NextcloudError
    assert (again.message, again.code, again.remedy) == (error.message, error.code, error.remedy)


class Closing:
    """Answers one request on each connection, and closes it when a second one arrives."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        body = b'{"ocs": {"data": {"id": "alice"}}}'
        for answers in (True, False):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            self.methods.append(head.split(b" ", 1)[0].decode())
            if answers:
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body
                )
        writer.close()


async def test_only_a_read_is_sent_again_on_a_closed_connection(http: httpx2.AsyncClient) -> None:
    """A server may close a kept connection at any time; a write could have been carried out."""
    closing = Closing()
    async with await asyncio.start_server(closing, "127.0.0.1", 0) as server:
        client = _at(http, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for _ in range(2):
            assert (await client.account.whoami()).id == "alice"
        assert closing.methods == ["GET"] * 3
        error = await failing(client.account.delete_app_password())
        assert error.code == "no-connection"
        assert closing.methods == ["GET"] * 3 + ["DELETE"]
