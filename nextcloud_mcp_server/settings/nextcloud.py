"""Which Nextcloud is served, to whom, and what may be done there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

from nextcloud_mcp_server.errors import TokenStorageError, without_secrets
from nextcloud_mcp_server.settings.process import DEFAULT_HOST
from nextcloud_mcp_server.settings.values import environment, flag
from nextcloud_mcp_server.settings.variables import ACCOUNT_VARIABLES

#: The hosts that only this machine reaches.
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

Value = TypeVar("Value")

#: Characters of a wrong address in a message.
_SHOWN: Final = 100

#: Characters of a name of a host without a dot, as in a network of containers.
_WORD: Final = 20


class NextcloudSettings(NamedTuple):
    """How people connect their Nextcloud. The URLs have no slash at the end.

    Attributes:
        host: the address of Nextcloud, as this server reaches it.
        browser_url: the same, as a browser reaches it.
        public_url: the address of this server for clients and browsers: an origin.
        read_only: whether nothing in Nextcloud may be changed.
        share_links: whether public links may be created.
    """

    host: str
    browser_url: str
    public_url: str
    read_only: bool = False
    share_links: bool = False


def nextcloud_settings(
    environ: Mapping[str, str] | None = None, *, listening: tuple[str, int]
) -> NextcloudSettings | None:
    """Return the settings of Nextcloud; None if ``NEXTCLOUD_HOST`` is not set.

    Args:
        environ: the environment; None for that of the process.
        listening: the host and the port that the server listens on.

    Raises:
        TokenStorageError: ``bad-input`` for a variable with another value.
    """
    environ = environment(environ)
    host = environ.get("NEXTCLOUD_HOST", "").strip()
    if not host:
        return None
    host = _web_address("NEXTCLOUD_HOST", host)
    browser = environ.get("NEXTCLOUD_PUBLIC_URL", "").strip()
    public = environ.get("PUBLIC_URL", "").strip()
    return NextcloudSettings(
        host,
        _web_address("NEXTCLOUD_PUBLIC_URL", browser) if browser else host,
        _public_url(public) if public else _listening_url(*listening),
        flag(environ, "READ_ONLY"),
        flag(environ, "SHARE_LINKS"),
    )


def without_effect(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the variables that are set and have no effect, as ``NEXTCLOUD_HOST`` is not set."""
    environ = environment(environ)
    if environ.get("NEXTCLOUD_HOST", "").strip():
        return []
    names = ("PUBLIC_URL", "NEXTCLOUD_PUBLIC_URL", "SHARE_LINKS")
    return [name for name in names if environ.get(name, "").strip()]


def lacks_public_url(host: str, environ: Mapping[str, str] | None = None) -> bool:
    """Check whether other machines reach a server that listens on ``host``, and no client can."""
    environ = environment(environ)
    return host not in LOOPBACK and not environ.get("PUBLIC_URL", "").strip()


class AccountSettings(NamedTuple):
    """The account of one person. Its ``repr`` has no password.

    Attributes:
        host: the address of Nextcloud without a slash at its end.
        username: the login name.
        password: an app password.
        read_only: whether nothing in Nextcloud may be changed.
        share_links: whether public links may be created.
        wrong: what is wrong with the variables, and what to set; empty if nothing.
    """

    host: str
    username: str
    password: str
    read_only: bool = False
    share_links: bool = False
    wrong: str = ""

    def __repr__(self) -> str:
        """Show the settings without the password."""
        return f"AccountSettings(host={self.host!r}, username={self.username!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("AccountSettings are not pickled or copied: that would expose the password")

    @property
    def unencrypted(self) -> bool:
        """Return whether the password leaves this machine unencrypted."""
        parts = urlsplit(self.host)
        return parts.scheme == "http" and parts.hostname not in LOOPBACK

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the variables that are needed and not set."""
        return tuple(
            name for name, value in zip(ACCOUNT_VARIABLES, self[:3], strict=False) if not value
        )


def account_settings(environ: Mapping[str, str] | None = None) -> AccountSettings:
    """Return the account of one person; empty texts for what is not set.

    Nothing is raised: a client shows no output of a process that ends. ``wrong`` has the problems,
    and a variable with another value counts as the one that allows less.
    """
    environ = environment(environ)
    wrong: list[str] = []

    def read(value: Callable[[], Value], less: Value) -> Value:
        try:
            return value()
        except TokenStorageError as error:
            wrong.append(f"{error.message} {error.remedy}")
            return less

    host = environ.get("NEXTCLOUD_HOST", "").strip()
    return AccountSettings(
        read(lambda: _web_address("NEXTCLOUD_HOST", host), "") if host else "",
        environ.get("NEXTCLOUD_USERNAME", "").strip(),
        environ.get("NEXTCLOUD_PASSWORD", "").strip(),
        read(lambda: flag(environ, "READ_ONLY"), less=True),
        read(lambda: flag(environ, "SHARE_LINKS"), less=False),
        " ".join(wrong),
    )


def _web_address(variable: str, text: str) -> str:
    """Return a URL of a web server without a slash at its end."""
    if problem := _problem(text):
        example = "mcp" if variable == "PUBLIC_URL" else "cloud"
        raise TokenStorageError(
            f"{variable} is {_quoted(text)}, {problem}.",
            code="bad-input",
            remedy=f"Set {variable} to an address like https://{example}.example.com.",
        )
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _problem(text: str) -> str:
    """Return why a text is no address of a web server; empty if it is one."""
    if not re.match("https?://", text, re.IGNORECASE):
        return "which does not begin with https:// or http://"
    try:
        parts = urlsplit(text)
    except ValueError:
        return "which is no URL"
    try:
        _ = parts.port
    except ValueError:
        return "which has a port that is no number up to 65535"
    problems = {
        "which has a user or a password in it": parts.username is not None,
        "which has a query (?)": "?" in text,
        "which has a fragment (#)": "#" in text,
        "which has no host": not parts.hostname,
    }
    return next((problem for problem, found in problems.items() if found), "")


def _quoted(text: str) -> str:
    """Return an address for a message, without what may be a user, a password or a secret."""
    scheme, rest = re.fullmatch(r"([a-zA-Z]+://)?(.*)", text, re.DOTALL).groups("")  # type: ignore[union-attr]
    # A long word without a dot may be an app password, and one that is typed here may have an @.
    if not scheme and ("@" in rest or ("." not in rest and len(rest) > _WORD)):
        return "another text"
    _, at, place = rest.rpartition("@")
    return repr(f"{scheme}{at and '***@'}{without_secrets(place)}"[:_SHOWN])


def _public_url(text: str) -> str:
    """Return the origin of this server."""
    url = _web_address("PUBLIC_URL", text)
    parts = urlsplit(url)
    if parts.path:
        raise TokenStorageError(
            "PUBLIC_URL has a path, and clients look for this server at the root of its host.",
            code="bad-input",
            remedy="Give the server a host name of its own: https://mcp.example.com",
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise TokenStorageError(
            "PUBLIC_URL begins with http, and tokens would be sent unencrypted.",
            code="bad-input",
            remedy="Put a reverse proxy with a certificate in front, and set PUBLIC_URL to its "
            "https address. Plain http is for 127.0.0.1 alone.",
        )
    return url


def _listening_url(host: str, port: int) -> str:
    """Return the URL of the server on this machine."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - every address has the one of loopback
        host = DEFAULT_HOST
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
