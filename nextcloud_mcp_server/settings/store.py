"""The settings of the token store: where it is, its keys, and how it is used."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.paths import (
    absolute,
    absolute_text,
    bad_path,
    database_path,
    is_url,
)
from nextcloud_mcp_server.filesystem.server_url import ServerUrl, is_server_url
from nextcloud_mcp_server.secret import Secret, SecretDict, SecretTuple, hidden
from nextcloud_mcp_server.settings.meant import require_meant, require_no_key, require_one_file
from nextcloud_mcp_server.settings.values import environment, number, shown

DEFAULT_LOCK_TIMEOUT: Final = 600.0

#: For the lifespan in another application: its server stops only after the start has ended.
EMBEDDED_LOCK_TIMEOUT: Final = 30.0

DEFAULT_DATABASE: Final = Path("/app/data/tokens.db")

#: Connections of a store to a server: more gain nothing, and a server has about a hundred.
DEFAULT_POOL_SIZE: Final = 8
_LARGEST_POOL: Final = 64

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
            values, named = SecretTuple(values), SecretDict(named)
            made = super().__new__(cls, *values, **named)
            key_file = made.key_file and absolute(made.key_file)
            place = made.database
            place = absolute(place) if isinstance(place, Path) else place
            return made._replace(database=place, key_file=key_file, keys=hidden(made.keys))

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
    environ, database = environment(environ), _hidden_url(database)
    # Hidden, because a key may be in the place of any of them.
    if key_file := hidden(environ.get("TOKEN_ENCRYPTION_KEY_FILE")):
        require_no_key("TOKEN_ENCRYPTION_KEY_FILE", key_file)
        require_one_file(key_file)
        require_meant("TOKEN_ENCRYPTION_KEY_FILE", key_file)
    # Checked here, and read again where the files are.
    trusted_owners(environ)
    declared_file_system(environ)
    pool_size(environ)
    return locate(environ, database=database)._replace(
        keys=_keys(Secret(environ.get("TOKEN_ENCRYPTION_KEY", ""))),
        key_file=absolute_text(key_file.reveal(), "the key file") if key_file else None,
        lock_timeout=_lock_timeout(environ.get("TOKEN_STORAGE_LOCK_TIMEOUT"), default_lock_timeout),
        audit_retention_days=number(
            environ, "AUDIT_RETENTION_DAYS", 1, _MOST_DAYS, of="a number of days", example=365
        ),
    )


def locate(
    environ: Mapping[str, str] | None = None,
    *,
    database: str | os.PathLike[str] | ServerUrl | None = None,
) -> Settings:
    """Read the settings of the database alone: the keys and the timeout are not read.

    Takes the arguments of :func:`load_settings`, and raises its errors about the database.
    """
    environ, database = environment(environ), _hidden_url(database)
    if database is not None:
        return Settings(database_place(database))
    if url := hidden(environ.get("DATABASE_URL")):
        overruled = environ.get("TOKEN_STORAGE_DB", "")
        return Settings(_place_of_variable(url), source="DATABASE_URL", overruled=overruled)
    if path := hidden(environ.get("TOKEN_STORAGE_DB")):
        require_no_key("TOKEN_STORAGE_DB", path)
        require_meant(
            "TOKEN_STORAGE_DB",
            path,
            " To use such a name, create the file: nextcloud-mcp-server db upgrade -d NAME",
        )
        return Settings(database_path(path.reveal()), source="TOKEN_STORAGE_DB")
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
    database = _hidden_url(database)
    if isinstance(database, ServerUrl):
        return database
    return ServerUrl(database) if isinstance(database, Secret) else database_path(database)


def _hidden_url(database: Any) -> Any:
    """Return the URL of a server, which may have a password, hidden; anything else as it is."""
    return hidden(database) if is_server_url(database) else database


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
    environ = environment(environ)
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
            f"TOKEN_STORAGE_TRUSTED_OWNERS lists {shown(name)}, and there is no such user.",
            code="bad-input",
            remedy="List users by their names or numbers, separated by commas: 1000,backup",
        ) from None


def declared_file_system(environ: Mapping[str, str] | None = None) -> str:
    """Return ``local`` or ``remote``; empty if the type of the file system decides.

    Raises:
        TokenStorageError: ``bad-input`` for another value.
    """
    environ = environment(environ)
    text = environ.get("TOKEN_STORAGE_FILESYSTEM", "")
    if text not in {"", "local", "remote"}:
        raise TokenStorageError(
            f"TOKEN_STORAGE_FILESYSTEM is {shown(text)}, which is neither local nor remote.",
            code="bad-input",
            remedy="Set it to local or remote, or unset it.",
        )
    return text


def pool_size(environ: Mapping[str, str] | None = None) -> int:
    """Return how many connections a store has to a server.

    Raises:
        TokenStorageError: ``bad-input`` for another value than a number from 1 to 64.
    """
    environ = environment(environ)
    size = number(
        environ,
        "TOKEN_STORAGE_POOL_SIZE",
        1,
        _LARGEST_POOL,
        of="a number of connections",
        example=DEFAULT_POOL_SIZE,
    )
    return DEFAULT_POOL_SIZE if size is None else size


def split_keys(text: Secret) -> tuple[Secret, ...]:
    """Return the keys of a ``;``-separated list, without white space and empty parts."""
    parts = hidden(text.split(";"))
    return tuple(hidden(part.strip()) for part in parts if part.strip())


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


def _lock_timeout(text: str | None, default: float) -> float:
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise TokenStorageError(
            f"TOKEN_STORAGE_LOCK_TIMEOUT is {shown(text)}, which is not a number of seconds.",
            code="bad-input",
            remedy="Set it to a number from 0 up, for example 600, or unset it.",
        )
    return seconds


def _place_of_variable(url: Secret) -> Path | ServerUrl:
    """Return the place of ``DATABASE_URL``; the remedy of an error names the variable."""
    if is_server_url(url):
        return ServerUrl(url, "DATABASE_URL")
    require_no_key("DATABASE_URL", url)
    try:
        require_meant("DATABASE_URL", url)
        if not is_url(url):
            raise bad_path("DATABASE_URL is not a URL; a plain path goes in TOKEN_STORAGE_DB.")
        return database_path(url.reveal())
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
