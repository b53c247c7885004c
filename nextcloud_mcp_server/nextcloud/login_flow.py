"""Login Flow v2: a person grants an app password on Nextcloud's own pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.connection import POLL, Connection
from nextcloud_mcp_server.secret import Secret, hidden

if TYPE_CHECKING:
    import httpx2

_FLOW: Final = "/index.php/login/v2"

#: What web servers answer to a POST that they do not know. A Nextcloud that does not allow the
#: program answers 403.
_FOREIGN: Final = {404, 405, 501}


@dataclass(frozen=True)
class LoginStarted:
    """The page that the person opens, and the token that asks for the result; both are secrets."""

    login_url: str = field(repr=False)
    poll_token: str = field(repr=False)


@dataclass(frozen=True)
class Granted:
    """A granted app password. It is given out once: it must be stored at once."""

    login_name: str
    app_password: str = field(repr=False)


async def begin_login(
    http: httpx2.AsyncClient, server: Server, user_agent: str, *, browser: Server | None = None
) -> LoginStarted:
    """Begin a login.

    Args:
        http: the client of :func:`~nextcloud_mcp_server.nextcloud.connection.open_http`.
        server: where Nextcloud is.
        user_agent: the name that the person sees, grants and can revoke.
        browser: the address at which a browser reaches Nextcloud, if it is another one.

    Raises:
        NextcloudError: the request failed.
    """
    connection = Connection(http, server, user_agent, None)
    answer = await connection.send("POST", _FLOW, what="login", foreign=_FOREIGN)
    data = hidden(answer.json())
    poll = hidden(data.get("poll")) if isinstance(data, dict) else None
    token = hidden(poll.get("token")) if isinstance(poll, dict) else None
    link = hidden(data.get("login")) if isinstance(data, dict) else None
    if not (token and isinstance(token, Secret) and isinstance(link, Secret) and _is_web(link)):
        raise errors.not_nextcloud(server.origin, "no Login Flow v2")
    url = link if browser is None else _for_browser(link, server, browser)
    return LoginStarted(url.reveal(), token.reveal())


def _is_web(link: Secret) -> bool:
    """Return whether a link is one that a browser can open."""
    try:
        has_host = bool(urlsplit(link.reveal()).hostname)
    except ValueError:
        return False
    return has_host and urlsplit(link.reveal()).scheme in {"https", "http"}


def _for_browser(link: Secret, server: Server, browser: Server) -> Secret:
    """Return a link for the browser: Nextcloud names the host that was called."""
    below = Secret(urlsplit(link.reveal()).path.removeprefix(server.folder))
    query = Secret(urlsplit(link.reveal()).query)
    return Secret(browser.url("") + below + (query and "?" + query))


async def poll_login(
    http: httpx2.AsyncClient, server: Server, user_agent: str, poll_token: str
) -> Granted | None:
    """Return the app password if the person has granted it; None if not, or not any more.

    Only ``server`` is asked, whatever address the beginning answered. A login expires after 20
    minutes.

    Raises:
        NextcloudError: the request failed.
    """
    poll_token = hidden(poll_token)
    connection = Connection(http, server, user_agent, None, secrets=(poll_token,))
    answer = await connection.send(
        "POST",
        POLL,
        what="login",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        body=urlencode({"token": hidden(poll_token).reveal()}).encode(),
        accept={404},
        foreign=_FOREIGN - {404},
    )
    if answer.status == 404:  # noqa: PLR2004 - not granted
        return None
    data = hidden(answer.json())
    name, password = (
        (data.get("loginName"), hidden(data.get("appPassword")))
        if isinstance(data, dict)
        else (None, None)
    )
    if not (isinstance(name, str) and isinstance(password, Secret) and name and password):
        raise errors.not_nextcloud(server.origin, "no Login Flow v2")
    return Granted(name, password.reveal())
