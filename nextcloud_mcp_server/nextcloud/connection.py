"""One person's connection to one Nextcloud: each request, its limits, and what a status means."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Container, Generator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from io import BytesIO
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx2

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.unreachable import why
from nextcloud_mcp_server.secret import Secret, SecretBytes, hidden

#: The largest body that is read, in bytes.
BODY: Final = 16 * 1024 * 1024

#: Seconds for one request with its body.
DEADLINE: Final = 120.0

#: Requests of one person at once. So many wrong logins can be under way when a password dies.
_AT_ONCE: Final = 4

#: Connections that are kept for later requests. Each request looks at the socket of every one of
#: them, twice.
_IDLE: Final = 10

#: Where Login Flow v2 is asked whether the person has finished it.
POLL: Final = "/index.php/login/v2/poll"

#: Methods that change nothing.
_READING: Final = {"GET", "HEAD", "PROPFIND", "REPORT", "SEARCH"}


class _Counted(httpx2.AsyncClient):
    """Counts each answer by the class of its status; ``none`` if there was none.

    A login that the person has not finished is ``waiting``: its answer is a 404 every few seconds.
    """

    def __init__(self, count: Callable[[str], object], **options: Any) -> None:
        super().__init__(**options)
        self._count = count

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request, and count its answer."""
        try:
            response = await super().send(request, **options)
        except httpx2.TransportError:
            self._count("none")
            raise
        unfinished = response.status_code == 404 and request.url.path.endswith(POLL)  # noqa: PLR2004
        self._count("waiting" if unfinished else f"{response.status_code // 100}xx")
        return response


def open_http(
    *, timeout: float = 30.0, count: Callable[[str], object] = lambda status: None
) -> httpx2.AsyncClient:
    """Return the HTTP client that every person of a process shares.

    It neither stores nor sends cookies: with a session cookie Nextcloud does not look at the
    password, and one person would get the files of another. It reads no proxy and no password
    from the environment, and follows no redirect.

    Args:
        timeout: seconds until a read or a write gives up; a connection gets 10 at most.
        count: called with ``2xx`` to ``5xx`` for each answer, with ``none`` without one, and with
            ``waiting`` for a login that is not finished.
    """
    return _Counted(
        count,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        # Shorter than what servers keep: a request on a connection that the server just closed
        # fails, and a write cannot be repeated safely.
        limits=httpx2.Limits(
            max_connections=100, max_keepalive_connections=_IDLE, keepalive_expiry=3.0
        ),
        timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
        trust_env=False,
    )


class Login(httpx2.Auth):
    """A login name with its app password, which no ``repr``, ``vars`` or pickle contains."""

    __slots__ = ("__header", "name", "secrets")

    def __init__(self, name: str, app_password: str) -> None:
        app_password = hidden(app_password)
        self.name = name
        pair = SecretBytes(":".join((name, app_password)).encode())
        encoded = Secret(b64encode(pair).decode())
        self.__header = Secret(f"Basic {encoded.reveal()}")
        #: What no answer of Nextcloud may bring into a message.
        self.secrets = (app_password, encoded)

    def __repr__(self) -> str:
        return f"Login({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a login cannot be pickled")

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Add the password to a request."""
        request.headers["Authorization"] = self.__header.reveal()
        yield request


@dataclass(frozen=True)
class Answer:
    """A status, its headers and a bounded body; the repr hides both, which may have secrets."""

    status: int
    headers: httpx2.Headers = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def etag(self) -> str:
        """Return the etag without quotes; empty if there is none."""
        return bare_etag(self.headers.get("ETag", ""))

    def json(self) -> Any:
        """Return the JSON of the body, in which each text can be encoded; None if it is none."""
        try:
            return _encodable(hidden(json.loads(self.body.decode("utf-8-sig", "replace"))))
        # RecursionError: brackets in brackets.
        except (RecursionError, ValueError):
            return None


def _encodable(found: Any) -> Any:
    """Return a hidden value of JSON in plain, with a replacement for half of a surrogate pair."""
    if isinstance(found, Secret):
        return re.sub("[\ud800-\udfff]", "\ufffd", found.reveal())
    if isinstance(found, tuple):
        return [*map(_encodable, map(hidden, found))]
    if isinstance(found, dict):
        values = map(_encodable, map(hidden, found.values()))
        return dict(zip(map(_encodable, map(hidden, found)), values, strict=True))
    return found


def bare_etag(text: str) -> str:
    """Return an etag without its quotes."""
    return text.strip().removeprefix("W/").strip('"')


def if_match(etag: str) -> dict[str, str]:
    """Return the header that writes only over this version.

    Raises:
        NextcloudError: ``bad-input`` if it cannot be an etag.
    """
    if not re.fullmatch(r"[!#-~]+", etag):
        raise errors.bad_input("The etag is not one of Nextcloud.", "Pass the etag that was read.")
    return {"If-Match": f'"{etag}"'}


class Connection:
    """Requests to one Nextcloud, with or without a login.

    After a 401 the password is never sent again by this object. Until the first request has
    succeeded, there is only one at a time.

    Args:
        http: the client of :func:`open_http`.
        server: where Nextcloud is.
        user_agent: how this server names itself.
        login: who is connected; None for the requests of a login.
        secrets: of these requests, beside those of the login. No message has them, also if the
            answer repeats them.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        server: Server,
        user_agent: str,
        login: Login | None,
        *,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.server = server
        self.login = login
        self._http = http
        self._user_agent = user_agent
        self._secrets = secrets if login is None else login.secrets
        self._closed: NextcloudError | None = None
        self._accepted = login is None
        self._first = anyio.Lock()
        self._some = anyio.Semaphore(_AT_ONCE)

    @property
    def refused(self) -> bool:
        """Return whether the password was refused or deleted: no request is sent any more."""
        return self._closed is not None

    def close(self, reason: NextcloudError) -> None:
        """Raise ``reason`` in every later call instead of sending a request."""
        self._closed = reason

    async def send(
        self,
        method: str,
        path: str,
        *,
        what: str = "address",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        accept: Container[int] = (),
        foreign: Container[int] = (),
        cut: int | None = None,
    ) -> Answer:
        """Send one request, and return its answer if that is a success.

        Args:
            method: the method of HTTP or WebDAV.
            path: below the server's address, quoted.
            what: the name of the object, for messages.
            query: parameters of the URL.
            headers: further headers.
            body: bytes to send.
            accept: further statuses that are returned instead of raised.
            foreign: statuses that no Nextcloud answers here: another program does.
            cut: the body ends after so many bytes without an error.

        Raises:
            NextcloudError: the request failed; see :mod:`~nextcloud_mcp_server.nextcloud.errors`.
        """
        body = hidden(body)
        async with AsyncExitStack() as stack:
            if not self._accepted:
                await stack.enter_async_context(self._first)
            await stack.enter_async_context(self._some)
            if self._closed is not None:
                raise self._closed.again()
            request = self._http.build_request(
                method,
                self.server.url(path),
                params=query,
                headers={
                    "User-Agent": self._user_agent,
                    "OCS-APIRequest": "true",
                    "Accept-Encoding": "identity",
                    **(headers or {}),
                },
                content=body,
            )
            answer = await self._exchange(request, what, cut)
            problem = self._another(answer, path, foreign) or self._problem(answer, what, accept)
            if problem is None:
                self._accepted = True
        if problem is not None:
            raise problem
        return answer

    async def _exchange(self, request: httpx2.Request, what: str, cut: int | None) -> Answer:
        answer: Answer | None = None
        try:
            with anyio.fail_after(DEADLINE):
                response = await self._begin(request)
                try:
                    answer = Answer(
                        response.status_code, response.headers, await _read(response, what, cut)
                    )
                finally:
                    await response.aclose()
        except (httpx2.TimeoutException, TimeoutError):
            problem = errors.timed_out(self.server.origin)
        except httpx2.RequestError as error:
            problem = errors.no_connection(self.server.origin, why(error))
        # Raised here, so that the frames of the HTTP client, which hold headers, are not its
        # context.
        if answer is None:
            raise problem
        return answer

    async def _begin(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; again if it only reads and its kept connection was just closed."""
        try:
            return await self._http.send(request, auth=self.login, stream=True)
        except (httpx2.RemoteProtocolError, httpx2.ReadError):
            if request.method not in _READING:
                raise
        return await self._http.send(request, auth=self.login, stream=True)

    def _another(self, answer: Answer, path: str, foreign: Container[int]) -> NextcloudError | None:
        """Return the error for an answer of another program than Nextcloud; None for others.

        Nextcloud asks for no password if none was sent.
        """
        status = answer.status
        if status in foreign or (status == 401 and self.login is None):  # noqa: PLR2004 - Unauthorized
            return errors.not_nextcloud(self.server.url(""), f"status {status} at {path}")
        return None

    def _problem(self, answer: Answer, what: str, accept: Container[int]) -> NextcloudError | None:
        status = answer.status
        if 200 <= status < 300 or status in accept:  # noqa: PLR2004 - the classes of HTTP
            return None
        problem = _meaning(answer, what, self.server.origin, self._hide)
        if status == 401 and self.login is not None:  # noqa: PLR2004 - Unauthorized
            self.close(problem)
        return problem

    def reason_of(self, answer: Answer) -> str:
        """Return Nextcloud's own reason in an answer, on one line; empty if there is none."""
        return _reason(answer, self._hide)

    def _hide(self, text: str) -> str:
        """Return a text of an answer without the secrets that were sent."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


#: Statuses that are about the object of the request.
_OF_OBJECT: Final = {404: errors.not_found, 412: errors.changed}

#: Statuses that are about the account or the server.
_OF_SERVER: Final = {401: errors.reconnect, 429: errors.throttled, 507: errors.over_quota}


def _meaning(  # noqa: PLR0911 - a table
    answer: Answer, what: str, origin: str, hide: Callable[[str], str]
) -> NextcloudError:
    """Return the error for a status that is no success; its texts of the answer go through hide."""
    status, reason = answer.status, _reason(answer, hide)
    if 300 <= status < 400:  # noqa: PLR2004 - the class of redirects
        return errors.moved(_place(hide(answer.headers.get("Location", ""))))
    if status in _OF_OBJECT:
        return _OF_OBJECT[status](what)
    if status in _OF_SERVER:
        return _OF_SERVER[status]()
    if status == 400 and b"\\InvalidPath</s:exception>" in answer.body:  # noqa: PLR2004 - Bad Request
        return errors.name_refused(reason)
    if b"\\MaxInstancesExceededException</s:exception>" in answer.body:
        return errors.too_many()
    if status in {403, 405, 409, 413, 415, 423}:
        return errors.forbidden(what, reason)
    if status == 503 and ("LoginException" in reason or "DisabledUser" in reason):  # noqa: PLR2004
        return errors.account_disabled()
    if status == 503 and "X-Nextcloud-Maintenance-Mode" in answer.headers:  # noqa: PLR2004
        return errors.maintenance()
    if status == 400 and answer.headers.get("Content-Type", "").startswith("text/html"):  # noqa: PLR2004
        return errors.not_nextcloud(origin, "status 400 with a page")
    return errors.failed(status, reason)


def _place(location: str) -> str:
    """Return where a redirect leads; empty if that is no address."""
    try:
        target = urlsplit(location)
    except ValueError:
        return ""
    # Without what could be a user and a password.
    place = f"{target.scheme}://{target.netloc.rpartition('@')[2]}"
    return place if target.hostname else ""


def _reason(answer: Answer, hide: Callable[[str], str]) -> str:
    """Return the server's own reason in an answer of WebDAV or OCS, on one line."""
    data = answer.json()
    if isinstance(data, dict):
        meta = data.get("ocs", data)
        meta = meta.get("meta", meta) if isinstance(meta, dict) else {}
        text = meta.get("message") if isinstance(meta, dict) else None
    else:
        found = re.search(rb"<s:message>([^<]*)</s:message>", answer.body)
        text = found[1].decode("utf-8", "replace") if found else None
    # Hidden first: a part of a secret would not be recognized.
    return " ".join(hide(text).split())[:200].rstrip(".") if isinstance(text, str) else ""


async def _read(response: httpx2.Response, what: str, cut: int | None) -> bytes:
    """Read a body up to the limit.

    It was asked for without compression: the size of what a compressed one expands to is not
    known before memory is full.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise errors.not_nextcloud(str(response.url.host), "a compressed answer, not asked for")
    limit = BODY if cut is None else cut
    # Neither a bytearray nor a variable for a chunk: a traceback with locals would show them.
    content, chunks = BytesIO(), response.aiter_raw()
    while content.tell() <= limit and content.write(await anext(chunks, b"")):
        pass
    if content.tell() > limit and cut is None:
        raise errors.too_large(what, limit)
    return content.getvalue()[:limit]
