"""The URL of a database server, which never shows its password."""

from __future__ import annotations

from typing import Final, NoReturn

from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.secret import hidden

_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")

#: Parameters that hold no secret; the value of any other one is not shown.
_SHOWN: Final = frozenset(
    {
        *("application_name", "connect_timeout", "dbname", "gssencmode", "host", "hostaddr"),
        *("keepalives", "keepalives_idle", "load_balance_hosts", "options", "passfile", "port"),
        *("service", "servicefile", "sslcert", "sslkey", "sslmode", "sslrootcert"),
        *("target_session_attrs", "tcp_user_timeout", "user"),
    }
)

_EXAMPLE: Final = "Give it as in postgresql://user@host:5432/database?sslmode=verify-full"


class ServerUrl:
    """A URL as libpq reads it: several hosts, service files and parameters are passed through.

    ``str()`` is the URL without its passwords.

    Attributes:
        conninfo: the URL for libpq, with its passwords.
    """

    __slots__ = ("_shown", "_variable", "conninfo")

    def __init__(self, url: str, variable: str = "") -> None:
        """Take a URL for which :func:`is_server_url` is true.

        Args:
            url: the URL.
            variable: the variable that it comes from; empty if it was typed.

        Raises:
            TokenStorageError: ``bad-input`` for what nobody means: blanks at an end, a control
                character, a password with a sign that ends it.
        """
        url = hidden(url)
        rest = hidden(url.partition("://")[2])
        if url != url.strip() or not url.isprintable():
            raise _malformed("begins or ends with a blank, or contains a control character")
        user = hidden(rest.partition("?")[0].rpartition("@")[0])
        if "@" in user or "/" in user:
            raise _malformed("has an '@' or a '/' in its name or password")
        self._variable: Final = variable
        self.conninfo: Final = hidden("postgresql://" + rest)
        self._shown: Final = f"postgresql://{_without_password(rest)}"

    def __str__(self) -> str:
        """Return the URL without passwords."""
        return self._shown

    def __repr__(self) -> str:
        """Return the URL without passwords, as an expression."""
        # Also if __init__ has failed: a traceback with locals shows what it was called on.
        return f"ServerUrl({getattr(self, '_shown', '')!r})"

    def __eq__(self, other: object) -> bool:
        """Compare the URLs, with their passwords."""
        return isinstance(other, ServerUrl) and other.conninfo == self.conninfo

    def __hash__(self) -> int:
        """Hash the URL."""
        return hash(self.conninfo)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a URL is not pickled or copied: that would expose its password")

    @property
    def option(self) -> str:
        """How a command names the database: ``-u`` with the URL, or the variable if it is one.

        A URL that was typed is without its password.
        """
        if self._variable and self._shown != self.conninfo:
            return f'-u "${self._variable}"'
        return f"-u {for_shell(self._shown)}"


def is_server_url(text: object) -> bool:
    """Return whether ``text`` is a URL of PostgreSQL, if perhaps a malformed one."""
    if not isinstance(text, str) or "://" not in text:
        return False
    return text.partition("://")[0].strip().lower() in _SCHEMES


def _malformed(what: str) -> TokenStorageError:
    """Return the error for a URL, which is not shown: its password may be anywhere."""
    return TokenStorageError(
        f"The URL of the database {what}.",
        code="bad-input",
        remedy=f"{_EXAMPLE}; in a name or password write @ : / ? # % as %40 %3A %2F %3F %23 %25.",
    )


def _without_password(rest: str) -> str:
    """Remove the password before the host, and the values that may hold one."""
    address, question, query = rest.partition("?")
    port = address.partition(":")[2].partition("/")[0]
    if "@" not in address and "@" in query and port and not port.isdigit():
        # An unescaped '?' in the password, as libpq takes it.
        begin, at, end = rest.rpartition("@")
        address, question, query = end.partition("?")
        address = f"{begin}{at}{address}"
    user, at, host = address.rpartition("@")
    address = f"{user.partition(':')[0]}{at}{host}"
    kept = []
    for part in query.split("&") if query else ():
        name, equals, _ = part.partition("=")
        if "password" not in name:
            kept.append(part if name in _SHOWN else f"{name if equals else ''}{equals}***")
    return f"{address}{question if kept else ''}{'&'.join(kept)}"
