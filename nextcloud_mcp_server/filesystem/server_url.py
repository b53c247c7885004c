"""The URL of a database server, which never shows its password."""

from __future__ import annotations

from typing import Final, NoReturn

from nextcloud_mcp_server.errors import TokenStorageError, for_shell

_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")

#: Parts of the names of parameters that hold a secret: password, sslpassword, oauth_client_secret.
_SECRET: Final = ("password", "secret")


class ServerUrl:
    """A URL as libpq reads it: several hosts, service files and parameters are passed through.

    ``str()`` is the URL without its passwords.

    Attributes:
        conninfo: the URL for libpq, with its passwords.
    """

    __slots__ = ("_shown", "conninfo")

    def __init__(self, url: str) -> None:
        """Take a URL of a scheme for which :func:`is_server_url` is true.

        Raises:
            TokenStorageError: ``bad-input`` for a null character.
        """
        if "\0" in url:
            raise TokenStorageError(
                "The URL of the database contains a null character.",
                code="bad-input",
                remedy="Give a URL as in postgresql://user@host/database.",
            )
        _, _, rest = url.partition("://")
        self.conninfo: Final = f"postgresql://{rest}"
        self._shown: Final = f"postgresql://{_without_password(rest)}"

    def __str__(self) -> str:
        """Return the URL without passwords."""
        return self._shown

    def __repr__(self) -> str:
        """Return the URL without passwords, as an expression."""
        return f"ServerUrl({self._shown!r})"

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
        """How a command names the database: ``-u URL``, or the variable if it has a password."""
        if self._shown == self.conninfo:
            return f"-u {for_shell(self._shown)}"
        return '-u "$DATABASE_URL"'


def is_server_url(text: object) -> bool:
    """Return whether ``text`` is a URL of PostgreSQL."""
    return isinstance(text, str) and text.partition("://")[0].lower() in _SCHEMES and "://" in text


def _without_password(rest: str) -> str:
    """Remove the password before the host, and the parameters that hold one."""
    address, question, query = rest.partition("?")
    # An unescaped '/' or '@' in a password must not show the rest of it.
    user, at, host = address.rpartition("@")
    address = f"{user.partition(':')[0]}{at}{host}"
    kept = [
        part
        for part in query.split("&")
        if not any(word in part.partition("=")[0].lower() for word in _SECRET)
    ]
    return f"{address}{question if any(kept) else ''}{'&'.join(kept)}"
