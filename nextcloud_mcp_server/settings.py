"""Settings, read from the environment. No other module reads it.

| variable | meaning | default |
|---|---|---|
| ``DATABASE_URL`` | ``postgresql://...`` or ``sqlite:////path``; wins over the next | unset |
| ``TOKEN_STORAGE_DB`` | path of the database file | ``/app/data/tokens.db`` |
| ``TOKEN_ENCRYPTION_KEY`` | Fernet keys separated by ``;``, newest first | unset |
| ``TOKEN_ENCRYPTION_KEY_FILE`` | a file that holds the same | unset |
| ``TOKEN_STORAGE_LOCK_TIMEOUT`` | seconds to wait for the migration lock | 600; embedded 30 |
| ``TOKEN_STORAGE_TRUSTED_OWNERS`` | users whose files are used too, separated by ``,`` | unset |
| ``TOKEN_STORAGE_FILESYSTEM`` | ``local`` or ``remote``, if the type does not tell | detected |
| ``TOKEN_STORAGE_POOL_SIZE`` | connections to a server of PostgreSQL | 8 |
| ``AUDIT_RETENTION_DAYS`` | days after which entries of the audit log are deleted | never |
| ``NEXTCLOUD_HOST`` | the address of Nextcloud, as this server reaches it | unset |
| ``NEXTCLOUD_PUBLIC_URL`` | the address of Nextcloud, as a browser reaches it | the same |
| ``PUBLIC_URL`` | the address of this server for clients and browsers | where it listens |
| ``NEXTCLOUD_USERNAME`` | the login name of the one person of `stdio` | unset |
| ``NEXTCLOUD_PASSWORD`` | an app password of that person | unset |
| ``READ_ONLY`` | ``true``: nothing in Nextcloud is changed | ``false`` |
| ``SHARE_LINKS`` | ``true``: a tool that creates public links | ``false`` |
| ``STATUS_TOKEN`` | who sends it sees ``/status`` and ``/metrics`` | unset: loopback alone |
| ``NEXTCLOUD_MCP_HOST`` | the address to listen on | ``127.0.0.1`` |
| ``NEXTCLOUD_MCP_PORT`` | the port to listen on; 0 for any free one | 8000 |
| ``NEXTCLOUD_MCP_LOG_LEVEL`` | ``debug``, ``info``, ``warning`` or ``error`` | ``info`` |
| ``NEXTCLOUD_MCP_LOG_FORMAT`` | ``text``, or ``json``: one object per line | ``text`` |
| ``NEXTCLOUD_MCP_ACCESS_LOG`` | ``1``: log a line per request; ``0``: do not | ``0`` |
| ``NO_COLOR`` | any text: no colours in a terminal (https://no-color.org) | unset |
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from nextcloud_mcp_server.errors import WRONG_USAGE, TokenStorageError, holds_key, without_secrets
from nextcloud_mcp_server.filesystem.literal import not_literal
from nextcloud_mcp_server.filesystem.paths import (
    absolute,
    absolute_text,
    bad_path,
    database_path,
    is_key,
    is_url,
    no_key,
    path_text,
)
from nextcloud_mcp_server.filesystem.server_url import ServerUrl, is_server_url
from nextcloud_mcp_server.secret import Secret

DEFAULT_LOCK_TIMEOUT: Final = 600.0

#: For the lifespan in another application: its server stops only after the start has ended.
EMBEDDED_LOCK_TIMEOUT: Final = 30.0

DEFAULT_DATABASE: Final = Path("/app/data/tokens.db")

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")

#: The variables of the token store.
VARIABLES: Final = (
    "DATABASE_URL",
    "TOKEN_STORAGE_DB",
    "TOKEN_ENCRYPTION_KEY",
    "TOKEN_ENCRYPTION_KEY_FILE",
    "TOKEN_STORAGE_LOCK_TIMEOUT",
    "TOKEN_STORAGE_TRUSTED_OWNERS",
    "TOKEN_STORAGE_FILESYSTEM",
    "TOKEN_STORAGE_POOL_SIZE",
    "AUDIT_RETENTION_DAYS",
)

#: The variables of the server process alone.
SERVER_VARIABLES: Final = (
    "NEXTCLOUD_MCP_HOST",
    "NEXTCLOUD_MCP_PORT",
    "NEXTCLOUD_MCP_LOG_LEVEL",
    "NEXTCLOUD_MCP_LOG_FORMAT",
    "NEXTCLOUD_MCP_ACCESS_LOG",
    "NEXTCLOUD_HOST",
    "NEXTCLOUD_PUBLIC_URL",
    "PUBLIC_URL",
    "READ_ONLY",
    "STATUS_TOKEN",
    "SHARE_LINKS",
)

#: The variables of `stdio`, which serves one person.
ACCOUNT_VARIABLES: Final = (
    "NEXTCLOUD_HOST",
    "NEXTCLOUD_USERNAME",
    "NEXTCLOUD_PASSWORD",
    "READ_ONLY",
    "SHARE_LINKS",
)

#: The hosts that only this machine reaches.
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

_HIGHEST_PORT: Final = 65_535

#: Connections of a store to a server: more gain nothing, and a server has about a hundred.
DEFAULT_POOL_SIZE: Final = 8
_LARGEST_POOL: Final = 64

#: Characters of a token that cannot be guessed, in base64.
_SHORTEST_TOKEN: Final = 22

#: A hundred years.
_MOST_DAYS: Final = 36_500


# A NamedTuple, because importing dataclasses takes longer than `db current` has.
class _Fields(NamedTuple):
    database: Path | ServerUrl
    keys: tuple[str, ...] = ()
    key_file: Path | None = None
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT
    fallback_from: Path | None = None
    source: str = ""
    overruled: str = ""
    audit_retention_days: int | None = None
    empty: str = ""


class Settings(_Fields):
    """The settings of a start. Its paths are made absolute: a later ``chdir`` changes nothing.

    Attributes:
        keys: Fernet keys, newest first, not checked; empty if none was given.
        key_file: the file with the keys, if none was given directly.
        lock_timeout: seconds to wait for the migration lock.
        fallback_from: the default path, if it cannot be used and ``database`` is in the
            user's data directory instead.
        source: the variable that ``database`` comes from; empty for the default and for a
            path that was passed in.
        overruled: the value of ``TOKEN_STORAGE_DB`` if ``DATABASE_URL`` wins over it.
        audit_retention_days: the days for which entries of the audit log are kept; None for ever.
        empty: the variable for the database that is set and empty, if the default is used.
    """

    __slots__ = ()

    # A type checker takes the signature from the fields.
    if not TYPE_CHECKING:

        def __new__(cls, *values, **named):
            """Make the paths absolute; ``bad-path`` if there is no working directory."""
            made = super().__new__(cls, *values, **named)
            key_file = made.key_file and absolute(made.key_file)
            place = made.database
            place = absolute(place) if isinstance(place, Path) else place
            return made._replace(database=place, key_file=key_file)

    def __repr__(self) -> str:
        """Show the settings without the keys."""
        return (
            f"Settings(database={str(self.database)!r}, keys=<{len(self.keys)}>, "
            f"key_file={self.key_file and str(self.key_file)!r}, "
            f"lock_timeout={self.lock_timeout}, fallback_from={self.fallback_from!r}, "
            f"source={self.source!r})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("Settings are not pickled or copied: that would expose their keys")

    @property
    def file(self) -> Path:
        """The path of the database file, for what was refused already if there is none.

        Raises:
            TokenStorageError: ``unsupported-database``.
        """
        if isinstance(self.database, Path):
            return self.database
        raise TokenStorageError(
            f"This works on a database file, and {self.database} is not one.",
            code="unsupported-database",
            remedy="Give the path of a file with -d.",
        )

    def with_database(self, database: str | os.PathLike[str] | ServerUrl) -> Settings:
        """Return the same settings for another database (a path or a URL)."""
        return self._replace(
            database=database_place(database), fallback_from=None, source="", overruled=""
        )


def load_settings(
    environ: Mapping[str, str] | None = None,
    *,
    database: str | os.PathLike[str] | ServerUrl | None = None,
    default_lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
) -> Settings:
    """Read all settings. Creates and opens nothing.

    An empty variable counts as unset.

    Args:
        environ: the environment; None for that of the process.
        database: a path or a URL. If given, the variables for the database are
            ignored, even if they are invalid.
        default_lock_timeout: seconds, if ``TOKEN_STORAGE_LOCK_TIMEOUT`` is not set.

    Raises:
        TokenStorageError: ``bad-input`` for an invalid lock timeout, owner, file system or
            number of days, ``bad-path`` or ``unsupported-database`` for a database that cannot
            be used, ``bad-path`` also for a key file below an unknown home folder,
            ``malformed-key`` for a list of keys with nothing in it.
    """
    environ = os.environ if environ is None else environ
    if key_file := environ.get("TOKEN_ENCRYPTION_KEY_FILE"):
        _require_no_key("TOKEN_ENCRYPTION_KEY_FILE", key_file)
        _require_one_file(key_file)
        _require_meant("TOKEN_ENCRYPTION_KEY_FILE", key_file)
    # Checked here, and read again where the files are.
    trusted_owners(environ)
    declared_file_system(environ)
    pool_size(environ)
    return locate(environ, database=database)._replace(
        keys=_keys(Secret(environ.get("TOKEN_ENCRYPTION_KEY", ""))),
        key_file=absolute_text(key_file, "the key file") if key_file else None,
        lock_timeout=_lock_timeout(environ.get("TOKEN_STORAGE_LOCK_TIMEOUT"), default_lock_timeout),
        audit_retention_days=_days(environ.get("AUDIT_RETENTION_DAYS")),
    )


def locate(
    environ: Mapping[str, str] | None = None,
    *,
    database: str | os.PathLike[str] | ServerUrl | None = None,
) -> Settings:
    """Read the settings of the database alone: the keys and the timeout are not read.

    Takes the arguments of :func:`load_settings`, and raises its errors about the database.
    """
    environ = os.environ if environ is None else environ
    if database is not None:
        return Settings(database_place(database))
    if url := environ.get("DATABASE_URL"):
        overruled = environ.get("TOKEN_STORAGE_DB", "")
        return Settings(_place_of_variable(url), source="DATABASE_URL", overruled=overruled)
    if path := environ.get("TOKEN_STORAGE_DB"):
        _require_no_key("TOKEN_STORAGE_DB", path)
        _require_meant(
            "TOKEN_STORAGE_DB",
            path,
            " To use such a name, create the file: nextcloud-mcp-server db upgrade -d NAME",
        )
        return Settings(database_path(path), source="TOKEN_STORAGE_DB")
    # Usually a variable of a script or of compose that has no value.
    empty = next((n for n in ("TOKEN_STORAGE_DB", "DATABASE_URL") if environ.get(n) == ""), "")
    if _can_hold_data(DEFAULT_DATABASE.parent):
        return Settings(DEFAULT_DATABASE, empty=empty)
    instead = _data_folder() / DEFAULT_DATABASE.name
    return Settings(instead, fallback_from=DEFAULT_DATABASE, empty=empty)


def _data_folder() -> Path:
    # platformdirs is imported only if the default cannot be used.
    from platformdirs import user_data_path  # noqa: PLC0415

    # Without a home folder it returns a relative path or raises, depending on its version.
    with suppress(RuntimeError, LookupError, OSError, ValueError):
        folder = user_data_path("nextcloud-mcp-server")
        if folder.is_absolute():
            return folder
    raise TokenStorageError(
        f"{DEFAULT_DATABASE} cannot be used here, and this user has no home folder.",
        code="bad-path",
        remedy="Set TOKEN_STORAGE_DB to the path of a file in a folder that this user can write "
        "to, for example TOKEN_STORAGE_DB=/data/tokens.db, or give -d.",
    )


def database_place(database: str | os.PathLike[str] | ServerUrl) -> Path | ServerUrl:
    """Return the file of a path or an SQLite URL, or the URL of a server.

    Raises:
        TokenStorageError: as :func:`~.filesystem.paths.database_path`.
    """
    if isinstance(database, ServerUrl):
        return database
    if isinstance(database, str) and is_server_url(database):
        return ServerUrl(database)
    return database_path(database)


def absolute_database(
    database: str | os.PathLike[str] | ServerUrl | None,
) -> str | os.PathLike[str] | ServerUrl | None:
    """Return ``database`` as an absolute path; unchanged if it is not the path of a file."""
    with suppress(TokenStorageError):
        return None if database is None else database_place(database)
    return database


def trusted_owners(environ: Mapping[str, str] | None = None) -> tuple[int, ...]:
    """Return the users whose files are used as if they were this user's.

    Raises:
        TokenStorageError: ``bad-input`` for a user that does not exist.
    """
    environ = os.environ if environ is None else environ
    listed = environ.get("TOKEN_STORAGE_TRUSTED_OWNERS", "").split(",")
    return tuple(_user_number(name) for name in map(str.strip, listed) if name)


def _user_number(name: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    import pwd  # noqa: PLC0415 - rarely needed

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise TokenStorageError(
            f"TOKEN_STORAGE_TRUSTED_OWNERS lists {_shown(name)}, and there is no such user.",
            code="bad-input",
            remedy="List users by their names or numbers, separated by commas: 1000,backup",
        ) from None


def declared_file_system(environ: Mapping[str, str] | None = None) -> str:
    """Return ``local`` or ``remote``; empty if the type of the file system decides.

    Raises:
        TokenStorageError: ``bad-input`` for another value.
    """
    environ = os.environ if environ is None else environ
    text = environ.get("TOKEN_STORAGE_FILESYSTEM", "")
    if text not in {"", "local", "remote"}:
        raise TokenStorageError(
            f"TOKEN_STORAGE_FILESYSTEM is {_shown(text)}, which is neither local nor remote.",
            code="bad-input",
            remedy="Set it to local or remote, or unset it.",
        )
    return text


def pool_size(environ: Mapping[str, str] | None = None) -> int:
    """Return how many connections a store has to a server.

    Raises:
        TokenStorageError: ``bad-input`` for another value than a number from 1 to 64.
    """
    environ = os.environ if environ is None else environ
    text = environ.get("TOKEN_STORAGE_POOL_SIZE", "").strip()
    if not text:
        return DEFAULT_POOL_SIZE
    if (number := _whole_number(text, 1, _LARGEST_POOL)) is not None:
        return number
    raise TokenStorageError(
        f"TOKEN_STORAGE_POOL_SIZE is {_shown(text)}, which is not a number of connections.",
        code="bad-input",
        remedy=f"Set it to a whole number from 1 to {_LARGEST_POOL}, for example "
        f"{DEFAULT_POOL_SIZE}, or unset it.",
    )


def wants_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Check whether colours are allowed in a terminal (https://no-color.org)."""
    environ = os.environ if environ is None else environ
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
    environ = os.environ if environ is None else environ
    if level is None:
        text = environ.get("NEXTCLOUD_MCP_LOG_LEVEL") or "info"
        level = _one_of("NEXTCLOUD_MCP_LOG_LEVEL", text, LOG_LEVELS)
    if form is None:
        text = environ.get("NEXTCLOUD_MCP_LOG_FORMAT") or "text"
        form = _one_of("NEXTCLOUD_MCP_LOG_FORMAT", text, LOG_FORMATS)
    if access is None:
        text = environ.get("NEXTCLOUD_MCP_ACCESS_LOG") or "0"
        access = _one_of("NEXTCLOUD_MCP_ACCESS_LOG", text, ("0", "1")) == "1"
    return level, form, access


def listen_address(
    environ: Mapping[str, str] | None = None, *, host: str | None = None, port: int | None = None
) -> tuple[str, int]:
    """Return the host and the port to listen on; an argument that is given wins over its variable.

    Raises:
        TokenStorageError: ``bad-input`` for a variable that is not a port, and for a host that
            nobody means literally.
    """
    environ = os.environ if environ is None else environ
    if host is None:
        host = _host(environ.get("NEXTCLOUD_MCP_HOST", "").strip() or DEFAULT_HOST)
    else:
        host = _host(host.strip(), typed=True)
    if port is None:
        port = _port(environ.get("NEXTCLOUD_MCP_PORT", "").strip())
    return host, port


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
    environ = os.environ if environ is None else environ
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
        _one_of("READ_ONLY", environ.get("READ_ONLY") or "false", ("true", "false")) == "true",
        _one_of("SHARE_LINKS", environ.get("SHARE_LINKS") or "false", ("true", "false")) == "true",
    )


class AccountSettings(NamedTuple):
    """The account of one person. Its ``repr`` has no password.

    Attributes:
        host: the address of Nextcloud without a slash at its end.
        username: the login name.
        password: an app password.
        read_only: whether nothing in Nextcloud may be changed.
        share_links: whether public links may be created.
    """

    host: str
    username: str
    password: str
    read_only: bool = False
    share_links: bool = False

    def __repr__(self) -> str:
        """Show the settings without the password."""
        return f"AccountSettings(host={self.host!r}, username={self.username!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("AccountSettings are not pickled or copied: that would expose the password")

    @property
    def unencrypted(self) -> bool:
        """Return whether the password leaves this machine unencrypted."""
        from urllib.parse import urlsplit  # noqa: PLC0415 - `db current` does not need it

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

    Raises:
        TokenStorageError: ``bad-input`` for a variable with another value.
    """
    environ = os.environ if environ is None else environ
    host = environ.get("NEXTCLOUD_HOST", "").strip()
    share_links = environ.get("SHARE_LINKS") or "false"
    read_only = environ.get("READ_ONLY") or "false"
    return AccountSettings(
        _web_address("NEXTCLOUD_HOST", host) if host else "",
        environ.get("NEXTCLOUD_USERNAME", "").strip(),
        environ.get("NEXTCLOUD_PASSWORD", "").strip(),
        _one_of("READ_ONLY", read_only, ("true", "false")) == "true",
        _one_of("SHARE_LINKS", share_links, ("true", "false")) == "true",
    )


def status_token(environ: Mapping[str, str] | None = None) -> Secret | None:
    """Return the token of the operator's pages; None if it is not set.

    Raises:
        TokenStorageError: ``bad-input`` if it is short or cannot be sent in a header.
    """
    environ = os.environ if environ is None else environ
    text = environ.get("STATUS_TOKEN", "").strip()
    if not text:
        return None
    if len(text) >= _SHORTEST_TOKEN and text.isascii() and text.isprintable() and " " not in text:
        return Secret(text)
    raise TokenStorageError(
        f"STATUS_TOKEN has not {_SHORTEST_TOKEN} or more printable characters without blanks.",
        code="bad-input",
        remedy="Set it to a random text: python3 -c 'import secrets; "
        "print(secrets.token_urlsafe())', or unset it.",
    )


def _web_address(variable: str, text: str) -> str:
    """Return a URL of a web server without a slash at its end."""
    from urllib.parse import urlsplit  # noqa: PLC0415 - `db current` does not need it

    with suppress(ValueError):
        parts = urlsplit(text)
        extra = parts.username is not None or "?" in text or "#" in text
        if parts.scheme in {"http", "https"} and parts.hostname and not extra:
            _ = parts.port  # raises for one that is none
            return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"
    raise TokenStorageError(
        f"{variable} is {_shown(text)}, which is not an http or https URL without a user.",
        code="bad-input",
        remedy=f"Set {variable} to an address like https://cloud.example.com.",
    )


def _public_url(text: str) -> str:
    from urllib.parse import urlsplit  # noqa: PLC0415 - as above

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


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if (port := _whole_number(text, 0, _HIGHEST_PORT)) is not None:
        return port
    raise TokenStorageError(
        f"NEXTCLOUD_MCP_PORT is {_shown(text)}, which is not a port.",
        code="bad-input",
        remedy=f"Set it to a whole number from 0 (any free port) to {_HIGHEST_PORT}, or unset it.",
    )


def _whole_number(text: str, least: int, most: int) -> int | None:
    """Return the number that ``text`` is; None if it is none, or out of range."""
    # Not longer than the limit: Python refuses to convert thousands of digits.
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)):
        number = int(text)
        return number if least <= number <= most else None
    return None


def _shown(text: str) -> str:
    """Return the beginning of a value for a message, without a secret."""
    return repr(without_secrets(text)[:20])


def _one_of(name: str, text: str, values: tuple[str, ...]) -> str:
    if (value := text.strip().lower()) in values:
        return value
    raise TokenStorageError(
        f"{name} is {_shown(text)}, which is not one of {', '.join(values)}.",
        code="bad-input",
        remedy=f"Set it to one of {', '.join(values)}, or unset it.",
    )


def split_keys(text: Secret) -> tuple[Secret, ...]:
    """Return the keys of a ``;``-separated list, without white space and empty parts."""
    return tuple(Secret(part.strip()) for part in text.split(";") if part.strip())


def _keys(text: Secret) -> tuple[Secret, ...]:
    """Return the keys of ``TOKEN_ENCRYPTION_KEY``: blanks alone are no reason to make a new key."""
    keys = split_keys(text)
    if text and not keys:
        raise TokenStorageError(
            "TOKEN_ENCRYPTION_KEY is set, and there is no key in it.",
            code="malformed-key",
            remedy="Set it to the key that the secrets were encrypted with, or unset it.",
        )
    return keys


def _require_meant(variable: str, text: str, remedy: str = "") -> None:
    """Fail if a path or URL has what a shell would have removed or replaced.

    A file of that name is used if it exists. The value may hold a password, so no error has it.

    Raises:
        TokenStorageError: ``bad-path``.
    """
    path = _path_if_any(text)
    what = not_literal(text) or (path and not_literal(path))
    if not what or os.path.exists(path):  # noqa: PTH110 - raises nothing
        return
    raise TokenStorageError(
        f"{variable} {what}, and there is no file of that name.",
        code="bad-path",
        remedy=f"Set {variable} to the path as it is, without quotes, blanks or variables: "
        f"Docker's --env-file, Compose and systemd do not read it as a shell does.{remedy}",
    )


def _require_no_key(variable: str, text: str) -> None:
    """Fail if a path or URL is an encryption key. A file of that name is used if it exists.

    Raises:
        TokenStorageError: ``malformed-key`` in place of the file with the keys, else ``bad-path``.
    """
    if is_key(_path_if_any(text)):
        code = "malformed-key" if variable == "TOKEN_ENCRYPTION_KEY_FILE" else "bad-path"
        what = "URL" if variable == "DATABASE_URL" else "path"
        raise no_key(variable, f"unset {variable} or set it to the {what} of a file", code)


def _require_one_file(text: str) -> None:
    """Fail if ``TOKEN_ENCRYPTION_KEY_FILE`` is a URL or names several files.

    Raises:
        TokenStorageError: ``bad-path``.
    """
    paths = [path.strip() for path in text.replace(",", ";").split(";")]
    if len(paths) > 1 and all(map(os.path.exists, paths)):
        what = f"names {len(paths)} files, and only one is read"
    elif is_url(text) or text.startswith("file:"):
        what = "is a URL; a plain path is needed"
    else:
        return
    if not os.path.exists(text):  # noqa: PTH110 - raises nothing
        raise TokenStorageError(
            f"TOKEN_ENCRYPTION_KEY_FILE {what}.",
            code="bad-path",
            remedy="Set it to the path of one file, for example /run/secrets/key; several keys go "
            "in that file, one a line, newest first.",
        )


def _path_if_any(text: str) -> str:
    """Return the path in a URL; the text itself if there is none."""
    with suppress(TokenStorageError):
        return path_text(text)
    return text


def _lock_timeout(text: str | None, default: float) -> float:
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise TokenStorageError(
            f"TOKEN_STORAGE_LOCK_TIMEOUT is {_shown(text)}, which is not a number of seconds.",
            code="bad-input",
            remedy="Set it to a number from 0 up, for example 600, or unset it.",
        )
    return seconds


def _days(text: str | None) -> int | None:
    if not text:
        return None
    if (days := _whole_number(text, 1, _MOST_DAYS)) is not None:
        return days
    raise TokenStorageError(
        f"AUDIT_RETENTION_DAYS is {_shown(text)}, which is not a number of days.",
        code="bad-input",
        remedy=f"Set it to a whole number from 1 to {_MOST_DAYS}, for example 365, or unset it to "
        "keep every entry.",
    )


def _place_of_variable(url: str) -> Path | ServerUrl:
    """Return the place of ``DATABASE_URL``; the remedy of an error names the variable."""
    if is_server_url(url):
        return ServerUrl(url, "DATABASE_URL")
    _require_no_key("DATABASE_URL", url)
    try:
        _require_meant("DATABASE_URL", url)
        if not is_url(url):
            raise bad_path("DATABASE_URL is not a URL; a plain path goes in TOKEN_STORAGE_DB.")
        return database_path(url)
    except TokenStorageError as error:
        raise TokenStorageError(
            error.message,
            code=error.code,
            remedy="Unset DATABASE_URL, which wins over TOKEN_STORAGE_DB, or set it to a URL of "
            "a file: sqlite:////app/data/tokens.db, or of a server: "
            "postgresql://user@host/database.",
        ) from None


def _can_hold_data(folder: Path) -> bool:
    """Check whether ``folder`` exists or the user may create it. Creates nothing."""
    # A folder of another user may be unreadable to this user.
    with suppress(OSError):
        for parent in (folder, *folder.parents):
            if parent.exists():
                writable = parent == folder or os.access(parent, os.W_OK | os.X_OK)
                return parent.is_dir() and writable
    return False
