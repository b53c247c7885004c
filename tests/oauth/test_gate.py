"""What every route refuses from everybody: large bodies, other media, floods and nonsense."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from starlette.routing import Route

from nextcloud_mcp_server.oauth import limits
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings
from tests.support.contents import KEY

if TYPE_CHECKING:
    from starlette.applications import Starlette

HOST: Final = "127.0.0.1:8000"
SETTINGS: Final = NextcloudSettings("http://127.0.0.1:9", "http://127.0.0.1:9", f"http://{HOST}")
FORM: Final = "application/x-www-form-urlencoded"
PIECE: Final = b"a=" + b"x" * 65_533 + b"&"

#: What a route may read of a body: 64 KiB, and the piece that is one too many.
LARGEST: Final = 64 * 1024 + len(PIECE)

#: Probes and the operator ask these, from the address that a proxy or a load balancer has, too.
#: They answer without a body, from memory, or with a token. A call of MCP needs a token as well.
WITHOUT_RATE: Final = {"/health", "/health/live", "/health/ready", "/status", "/metrics", "/mcp"}

#: Requests at once, and in the two seconds after that: of a page or a document, of what a person
#: sends or begins, and of what programs send.
PAGE_RATE: Final = 300, 100
FORM_RATE: Final = 60, 4
RATES: Final = {"/authorize": FORM_RATE, "/token": (200, 40), "/register": (30, 1)}

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X")


@dataclass
class Answer:
    """An answer, and how many bytes of the body the application took."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    taken: int = 0


@dataclass
class App:
    """The application while it runs, called without a server in between."""

    app: Starlette
    state: dict[str, Any]
    asked: int = 0

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        query: bytes = b"",
        pieces: Sequence[bytes] = (),
        address: str = "",
        host: bytes = HOST.encode(),
        leaves: bool = False,
    ) -> Answer:
        """Send a request; each comes from an address of its own unless one is given.

        With ``leaves`` the client goes before its body has arrived.
        """
        self.asked += 1
        answer = Answer()
        rest = list(pieces)

        async def receive() -> dict[str, Any]:
            if rest:
                piece = rest.pop(0)
                answer.taken += len(piece)
                return {"type": "http.request", "body": piece, "more_body": bool(rest) or leaves}
            if leaves or answer.taken:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query,
            "headers": [(b"host", host), *headers],
            "client": (
                address
                or f"10.{self.asked // 65_536}.{self.asked // 256 % 256}.{self.asked % 256}",
                1,
            ),
            "server": ("127.0.0.1", 8000),
            "state": dict(self.state),
        }
        await self.app(scope, receive, send)
        return answer

    def routes(self) -> Iterator[tuple[str, str]]:
        """Return the method and the path of every route, each once."""
        found = dict.fromkeys(
            (method, route.path)
            for route in self.app.routes
            if isinstance(route, Route)
            for method in sorted(route.methods or METHODS[:3])
        )
        assert len({path for _, path in found}) > 15
        yield from found


@asynccontextmanager
async def opened(database: Path, settings: NextcloudSettings = SETTINGS) -> AsyncIterator[App]:
    """Run the application."""
    app = create_app(database, encryption_key=KEY, nextcloud=settings)
    async with app.router.lifespan_context(app) as state:
        yield App(app, dict(state or {}))


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_no_route_reads_a_large_body(token_db: Path, declared: bool) -> None:
    """Of 20 MB each route takes at most 64 KiB, and none of what is declared; a form gets 413."""
    length = [(b"content-length", str(320 * len(PIECE)).encode())] if declared else []
    async with opened(token_db) as app:
        for method, path in app.routes():
            for media in (FORM, "application/json", "multipart/form-data; boundary=x"):
                answer = await app.ask(
                    method,
                    path,
                    headers=[(b"content-type", media.encode()), *length],
                    pieces=[PIECE] * 320,
                )
                told = (method, path, media, answer.status, answer.taken)
                assert answer.taken <= (0 if declared else LARGEST), told
                refused = {401, 403, 413, 415} if method == "POST" else range(200, 500)
                assert answer.status in refused, told


async def test_forms_are_urlencoded(token_db: Path) -> None:
    """Another type of a form, which could write files, is refused before it is read."""
    async with opened(token_db) as app:
        posts = [path for method, path in app.routes() if method == "POST"]
        for path in posts:
            for media in (b"multipart/form-data; boundary=x", b"text/plain", b""):
                answer = await app.ask(
                    "POST", path, headers=[(b"content-type", media)], pieces=[b"--x--"]
                )
                assert (answer.status, answer.taken) in {(415, 0), (401, 0)}, (path, media)
    assert {"/token", "/revoke", "/register", "/authorize/consent", "/home/revoke"} <= {*posts}


async def test_every_route_has_a_rate_limit(
    token_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that asks without end is refused, except where a token or a probe asks."""
    now = 1_000.0
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now))
    async with opened(token_db) as app:

        async def allowed(method: str, path: str) -> int:
            for number in range(350):
                answer = await app.ask(method, path, address="192.0.2.1")
                if answer.status == 429:
                    return number
            return 350

        for path in dict.fromkeys(path for _, path in app.routes()):
            # HEAD shares the limit of GET; the middleware for CORS answers OPTIONS, from memory.
            for method in [m for m, p in app.routes() if p == path and m in {"GET", "POST"}]:
                burst = await allowed(method, path)
                now += 2
                found = burst, await allowed(method, path)
                default = FORM_RATE if method == "POST" else PAGE_RATE
                expected = (350, 350) if path in WITHOUT_RATE else RATES.get(path, default)
                assert found == expected, (method, path)


async def test_people_who_wait_are_not_refused(token_db: Path) -> None:
    """A hundred people behind one address wait: their pages ask at once, and do so again."""
    async with opened(token_db) as app:
        for path in ("/authorize/wait", "/authorize/consent", "/home/sign-in"):
            for _ in range(200):
                answer = await app.ask("GET", path, address="192.0.2.1")
                assert answer.status == 403


async def test_a_person_gets_a_page_over_the_limit(token_db: Path) -> None:
    """A browser shows words, not JSON."""
    html = [(b"accept", b"text/html")]
    async with opened(token_db) as app:
        for _ in range(1_000):
            answer = await app.ask("GET", "/authorize/wait", headers=html, address="192.0.2.1")
            if answer.status == 429:
                break
    assert b"Too many requests" in answer.body
    assert answer.headers["content-type"].startswith("text/html")


MULTIPART: Final = (
    b'--x\r\nContent-Disposition: form-data; name="client_id"\r\n\r\na\xff\r\n--x--\r\n'
)
CHARSETS: Final = ("undefined", "punycode", "idna", "hex", "utf-16", "rot13", '"a b"', "mbcs")
MEDIA: Final = (
    FORM.encode(),
    b"application/json",
    b"multipart/form-data",
    b"multipart/form-data; boundary=",
    b'multipart/form-data; boundary="\xff"',
    b"multipart/form-data; boundary=" + b"x" * 5_000,
    FORM.encode() + b"; a=" + b";" * 5_000,
    b"\xff",
    *(f"multipart/form-data; boundary=x; charset={name}".encode() for name in CHARSETS),
    *(f"{FORM}; charset={name}".encode() for name in CHARSETS),
    *(f"application/json; charset={name}".encode() for name in CHARSETS),
)
BODIES: Final = (
    b"",
    b"\xff\xfe=\xff",
    b"&" * 2_000,
    b"a=1&" * 1_500,
    MULTIPART,
    b"client_id=%00&token=%00&code=%00&refresh_token=%ff&grant_type=refresh_token",
    b"client_id=%ff&token=%ff&grant_type=authorization_code&code=%ff&code_verifier=%ff",
    b"client_id=x&grant_type=authorization_code&code=a&code_verifier=a&redirect_uri=http://[",
    b"client_id=https://[/x&grant_type=refresh_token&refresh_token=a",
    b"session=%ed%a0%80&csrf=%ed%a0%80&grant=%ed%a0%80&action=allow&resource=%ed%a0%80",
    b"[" * 30_000,
    b"1" * 5_000,
    b'{"redirect_uris":["http://["]}',
    b'{"redirect_uris":["https://a/\\ud800"],"client_name":"\\ud800"}',
    b'{"redirect_uris":["https://a.b/"],"grant_types":["\\ud800","authorization_code"]}',
    b'{"redirect_uris":["https://a.b/"],"jwks":Infinity,"client_name":"\\u0000"}',
)
QUERIES: Final = (
    b"%ff",
    b"session=%ff%fe&grant=%00&scope=%00",
    b"session=" + b"A" * 43,
    b"client_id=%ff&redirect_uri=%ff&state=%ff",
    b"client_id=https://%5b/x",
    b"client_id=" + b"a" * 9_000,
    b"allowed=%ed%a0%80&client_id=%ed%a0%80&redirect_uri=http://[",
    b"redirect_uri=http://%00&client_id=x&response_type=code&code_challenge=" + b"a" * 43,
)
COOKIES: Final = (
    b"nextcloud-mcp=" + b"A" * 43 + b"; nextcloud-mcp-home=" + b"B" * 43,
    b"\xff=\xff; nextcloud-mcp=\xff",
    b'nextcloud-mcp="\\777\\000"',
)
HEADERS: Final = (
    *((b"cookie", value) for value in COOKIES),
    *((b"authorization", value) for value in (b"Bearer \xff\xfe", b"Basic \xff", b"Basic /w==")),
    (b"authorization", b"Bearer " + b"A" * 43),
    (b"origin", b"["),
    (b"origin", b"\xff"),
    (b"accept", b"\xff" + b"," * 5_000),
    (b"content-length", b"x"),
    (b"content-length", "²".encode("latin-1")),
    (b"content-length", b"-1"),
    (b"content-length", b"9" * 5_000),
)


async def test_nothing_that_anybody_sends_is_an_error_of_the_server(
    token_db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Odd types, charsets, bodies, queries, headers and methods get no 500 and no traceback."""
    async with opened(token_db) as app:
        paths = sorted({path for _, path in app.routes()} | {"/nothing"})

        async def ask(method: str, path: str, **options: Any) -> None:
            answer = await app.ask(method, path, **options)
            assert 200 <= answer.status < 500, (method, path, options, answer)

        for path in paths:
            for method in METHODS:
                for media in MEDIA:
                    kind = [(b"content-type", media)]
                    await ask(method, path, headers=kind, pieces=[MULTIPART])
            for media in (FORM.encode(), b"application/json"):
                for body in BODIES:
                    kind = [(b"content-type", media), (b"cookie", COOKIES[0])]
                    await ask("POST", path, headers=kind, pieces=[body])
                for header in HEADERS:
                    kind = [(b"content-type", media), header]
                    await ask("POST", path, headers=kind, pieces=[b"client_id=a&token=b"])
            for query in QUERIES:
                for method in ("GET", "HEAD", "POST"):
                    await ask(method, path, query=query)
            for header in HEADERS:
                await ask("GET", path, headers=[header])
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_client_that_leaves_is_not_an_error(
    token_db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the connection ends before the body has arrived, there is nothing to answer or to log."""
    async with opened(token_db) as app:
        for method, path in app.routes():
            for media in (FORM.encode(), b"application/json"):
                for pieces in ([], [b"a=b"]):
                    kind = [(b"content-type", media), (b"content-length", b"10")]
                    answer = await app.ask(method, path, headers=kind, pieces=pieces, leaves=True)
                    assert answer.status < 500
    assert [record.getMessage() for record in caplog.records] == []


async def test_every_page_is_of_one_host(token_db: Path) -> None:
    """Under a foreign name, as after DNS rebinding, no page and no endpoint answers.

    The health checks do, which probes reach by address, and so do the operator's pages, which
    check the name themselves if they ask for no token.
    """
    async with opened(token_db) as app:
        for host in (b"evil.example", b"evil.example:8000", b"127.0.0.1.evil.example", b"[", b""):
            for method, path in app.routes():
                answer = await app.ask(method, path, host=host)
                if path.startswith("/health"):
                    assert answer.status in {200, 503}
                elif path in {"/status", "/metrics"}:
                    assert answer.status == 403
                else:
                    assert answer.status == 421, (host, method, path)
        for host in (HOST.encode(), b"localhost:1", b"LOCALHOST", b"127.0.0.1", b"[::1]:5"):
            assert (await app.ask("GET", "/", host=host)).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mcp.example.com", 200),
        ("MCP.example.com:443", 200),
        ("mcp.example.com:80", 421),
        ("mcp.example.com:8000", 421),
        ("a@mcp.example.com", 421),
        ("x.mcp.example.com", 421),
    ],
)
async def test_the_public_name_is_answered(token_db: Path, host: str, status: int) -> None:
    """The server has the name of PUBLIC_URL with its port, in any case, and no other one."""
    async with opened(token_db, SETTINGS._replace(public_url="https://mcp.example.com")) as app:
        assert (await app.ask("GET", "/", host=host.encode())).status == status
