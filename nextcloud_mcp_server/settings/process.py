"""How the process listens, logs and shows itself to the operator."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Final

from nextcloud_mcp_server.errors import WRONG_USAGE, TokenStorageError, holds_key, printable
from nextcloud_mcp_server.filesystem.literal import not_literal
from nextcloud_mcp_server.secret import Secret, hidden
from nextcloud_mcp_server.settings.values import environment, number, one_of

DEFAULT_HOST: Final = "127.0.0.1"

DEFAULT_PORT: Final = 8000

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

LOG_FORMATS: Final = ("text", "json")

_HIGHEST_PORT: Final = 65_535

#: Characters of a token that cannot be guessed, in base64.
_SHORTEST_TOKEN: Final = 22


def wants_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Check whether colours are allowed in a terminal (https://no-color.org)."""
    environ = environment(environ)
    return not environ.get("NO_COLOR")


def log_settings(
    environ: Mapping[str, str] | None = None,
    *,
    level: str | None = None,
    form: str | None = None,
    access: bool | None = None,
) -> tuple[str, str, bool]:
    """Return the level and the form of the server's log, and whether it logs each request.

    An argument that is given wins over its variable.

    Raises:
        TokenStorageError: ``bad-input`` for a variable with another value.
    """
    environ = environment(environ)
    if level is None:
        text = environ.get("NEXTCLOUD_MCP_LOG_LEVEL") or "info"
        level = one_of("NEXTCLOUD_MCP_LOG_LEVEL", text, LOG_LEVELS)
    if form is None:
        text = environ.get("NEXTCLOUD_MCP_LOG_FORMAT") or "text"
        form = one_of("NEXTCLOUD_MCP_LOG_FORMAT", text, LOG_FORMATS)
    if access is None:
        text = environ.get("NEXTCLOUD_MCP_ACCESS_LOG") or "0"
        access = one_of("NEXTCLOUD_MCP_ACCESS_LOG", text, ("0", "1")) == "1"
    return level, form, access


def listen_address(
    environ: Mapping[str, str] | None = None, *, host: str | None = None, port: int | None = None
) -> tuple[str, int]:
    """Return the host and the port to listen on; an argument that is given wins over its variable.

    Raises:
        TokenStorageError: ``bad-input`` for a variable that is not a port, and for a host that
            nobody means literally.
    """
    environ = environment(environ)
    if host is None:
        host = _host(environ.get("NEXTCLOUD_MCP_HOST", "").strip() or DEFAULT_HOST)
    else:
        host = _host(host.strip(), typed=True)
    if port is None:
        port = number(
            environ, "NEXTCLOUD_MCP_PORT", 0, _HIGHEST_PORT, of="a port", example=DEFAULT_PORT
        )
    return host, DEFAULT_PORT if port is None else port


def status_token(environ: Mapping[str, str] | None = None) -> Secret | None:
    """Return the token of the operator's pages; None if it is not set.

    Raises:
        TokenStorageError: ``bad-input`` if it is short or cannot be sent in a header.
    """
    environ = environment(environ)
    text: Secret = hidden(environ.get("STATUS_TOKEN", "").strip())
    if not text:
        return None
    if len(text) >= _SHORTEST_TOKEN and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise TokenStorageError(
        f"STATUS_TOKEN has not {_SHORTEST_TOKEN} or more printable characters without blanks.",
        code="bad-input",
        remedy="Set it to a random text: python3 -c 'import secrets; "
        "print(secrets.token_urlsafe())' - or unset it.",
    )


def trusted_proxies(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the addresses and networks of proxies that may say whose request they pass on.

    Raises:
        TokenStorageError: ``bad-input`` for what is no address and no network, and for every one.
    """
    environ = environment(environ)
    given = environ.get("TRUSTED_PROXIES", "").strip()
    found = [text.strip() for text in given.split(",")]
    for text in filter(None, found):
        try:
            is_one = ip_network(text, strict=False).prefixlen > 0
        except ValueError:
            is_one = False
        if not is_one:
            raise TokenStorageError(
                f"TRUSTED_PROXIES is {printable(repr(given))}, and {printable(repr(text))} is no "
                "address and no network.",
                code="bad-input",
                remedy="Set it to the addresses of your proxies, for example 127.0.0.1 or "
                "172.18.0.0/16. Anybody else can send X-Forwarded-For, too.",
            )
    return list(filter(None, found))


def _host(text: str, *, typed: bool = False) -> str:
    """Return a host without the brackets of a URL; ``typed`` if it was given as an option."""
    host = text[1:-1] if text[:1] == "[" and text[-1:] == "]" and ":" in text else text
    if not (what := _no_host(host)):
        return host
    raise TokenStorageError(
        f"{'--host' if typed else 'NEXTCLOUD_MCP_HOST'} {what}.",
        code="bad-input",
        remedy=f"{'Give' if typed else 'Set it to'} a name or an address alone, for example "
        "127.0.0.1, or 0.0.0.0 for every IPv4 address; a port goes in "
        f"{'--port' if typed else 'NEXTCLOUD_MCP_PORT'}.",
        exit_status=WRONG_USAGE if typed else 1,
    )


def _no_host(host: str) -> str:
    """Return why ``host`` is no name and no address; empty if it may be one."""
    if holds_key(host):
        return "holds an encryption key, not an address"
    if "://" in host:
        return "is a URL, not an address"
    name, separator, port = host.rpartition(":")
    if separator and port.isdigit() and (":" not in name or name.endswith("]")):
        return f"ends with the port {port[:5]}"
    if host == "*":
        return "is *, which is no address"
    # Letters alone are a name.
    if not host.isalnum() and (what := not_literal(host)):
        return what
    return "contains a blank or a slash" if "/" in host or len(host.split()) > 1 else ""
