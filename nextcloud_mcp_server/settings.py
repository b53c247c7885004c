"""Frozen settings, read from the environment as nothing else is but the place of the database.

| variable | meaning | default |
|---|---|---|
| ``DATABASE_URL`` | SQLAlchemy URL of the database; wins over the next | unset |
| ``TOKEN_STORAGE_DB`` | path of the database file | ``/app/data/tokens.db`` |
| ``TOKEN_ENCRYPTION_KEY`` | Fernet keys separated by ``;``, newest first | unset |
| ``TOKEN_ENCRYPTION_KEY_FILE`` | a file that holds the same | unset |
| ``TOKEN_STORAGE_LOCK_TIMEOUT`` | seconds to wait for the migration lock | 600 |
| ``NO_COLOR`` | anything: a terminal is sent no colours (https://no-color.org) | unset |
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.errors import TokenStorageError

DEFAULT_LOCK_TIMEOUT: Final = 600.0

#: Those of the table above that :func:`load_settings` reads.
VARIABLES: Final = (
    "DATABASE_URL",
    "TOKEN_STORAGE_DB",
    "TOKEN_ENCRYPTION_KEY",
    "TOKEN_ENCRYPTION_KEY_FILE",
    "TOKEN_STORAGE_LOCK_TIMEOUT",
)


class Settings(NamedTuple):
    """What a start needs to know.

    Attributes:
        database: the database file.
        keys: Fernet keys, newest first, unchecked; empty when none was given.
        key_file: the file that the keys are to be read from, when none was given directly.
        lock_timeout: seconds to wait for the migration lock.
        fallback_from: the default path that could not be used, when ``database`` is the
            one in the user's data directory instead.
        source: the variable that named ``database``; empty for the default and for a
            database that was given by other means.
        overruled: what ``TOKEN_STORAGE_DB`` says where ``DATABASE_URL`` wins over it.
    """

    database: Path
    keys: tuple[str, ...] = ()
    key_file: Path | None = None
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT
    fallback_from: Path | None = None
    source: str = ""
    overruled: str = ""

    def __repr__(self) -> str:
        """Hide the keys, whoever prints the settings."""
        return (
            f"Settings(database={str(self.database)!r}, keys=<{len(self.keys)}>, "
            f"key_file={self.key_file and str(self.key_file)!r}, "
            f"lock_timeout={self.lock_timeout}, fallback_from={self.fallback_from!r}, "
            f"source={self.source!r})"
        )

    def with_database(self, database: str | os.PathLike[str]) -> Settings:
        """The same settings for another database (a path or an SQLite URL)."""
        return self._replace(
            database=database_path(database), fallback_from=None, source="", overruled=""
        )


def load_settings(
    environ: Mapping[str, str] | None = None, *, database: str | os.PathLike[str] | None = None
) -> Settings:
    """Read the settings from ``environ`` (default: the process's environment).

    An empty variable counts as unset. Nothing is created or opened.

    Args:
        environ: the environment.
        database: a path or an SQLite URL, for which the environment's database is not
            looked at, however unusable it is.

    Raises:
        TokenStorageError: ``bad-input`` for a lock timeout that is no number of seconds,
            ``bad-path`` or ``unsupported-database`` for a database that cannot be used.
    """
    environ = os.environ if environ is None else environ
    place = locate(environ, database=database)
    key_file = environ.get("TOKEN_ENCRYPTION_KEY_FILE")
    return Settings(
        database=place.database,
        keys=split_keys(environ.get("TOKEN_ENCRYPTION_KEY", "")),
        key_file=Path(key_file) if key_file else None,
        lock_timeout=_lock_timeout(environ.get("TOKEN_STORAGE_LOCK_TIMEOUT")),
        fallback_from=place.fallback_from,
        source=place.source,
        overruled=place.overruled,
    )


def wants_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a terminal may be sent colours (https://no-color.org)."""
    environ = os.environ if environ is None else environ
    return not environ.get("NO_COLOR")


def split_keys(text: str) -> tuple[str, ...]:
    """The keys of a ``;``-separated list, without white space and empty parts."""
    return tuple(part for part in (piece.strip() for piece in text.split(";")) if part)


def _lock_timeout(text: str | None) -> float:
    if not text:
        return DEFAULT_LOCK_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise TokenStorageError(
            f"TOKEN_STORAGE_LOCK_TIMEOUT is {text!r}, which is not a number of seconds.",
            code="bad-input",
            remedy="Set it to a number from 0 up, for example 600, or unset it.",
        )
    return seconds


DEFAULT_DATABASE: Final = Path("/app/data/tokens.db")

_SQLITE_SCHEMES: Final = ("sqlite", "sqlite+aiosqlite", "sqlite+pysqlite")


class Location(NamedTuple):
    """A database and what named it; :class:`~.settings.Settings` tells of each attribute."""

    database: Path
    fallback_from: Path | None = None
    source: str = ""
    overruled: str = ""


def locate(
    environ: Mapping[str, str] | None = None, *, database: str | os.PathLike[str] | None = None
) -> Location:
    """Which database is meant. Nothing is created or opened.

    Args:
        environ: the environment (default: the process's).
        database: a path or an SQLite URL, for which the environment is not looked at.

    Raises:
        TokenStorageError: ``bad-path`` or ``unsupported-database``.
    """
    if database is not None:
        return Location(database_path(database))
    return _named(os.environ if environ is None else environ)


def database_path(database: str | os.PathLike[str]) -> Path:
    """The file that a path or an SQLite URL names.

    In a URL ``%20`` and the like are escapes, as in SQLAlchemy's. A plain path is taken to
    the letter.

    Raises:
        TokenStorageError: ``unsupported-database`` for the URL of another engine,
            ``bad-path`` for what is neither text nor a path of text, an empty path, a null
            character, an in-memory database or a URL with parameters.
    """
    text = os.fspath(database) if isinstance(database, os.PathLike) else database
    if not isinstance(text, str):
        raise _bad_path(f"The path of the database is {type(text).__name__}, not text.")
    scheme, separator, rest = text.partition("://")
    if separator and _is_scheme(scheme):
        if scheme.lower() not in _SQLITE_SCHEMES:
            raise _unsupported(scheme)
        if "?" in rest:
            # Dropping what follows, as is usual, would open 'x' for 'x?y.db'.
            raise _bad_path(
                "An SQLite URL takes no parameters here; write %3F for a '?' in a name."
            )
        # Imported only for a URL: it takes as long as a look at a database.
        from urllib.parse import unquote  # noqa: PLC0415

        text = unquote(rest.removeprefix("/"))
        if not rest.startswith("/") and rest:
            raise _bad_path(
                "An SQLite URL has three slashes before a relative path and four before "
                f"an absolute one: {scheme}:////path/to/tokens.db; this one has a host."
            )
    if not text.strip():
        raise _bad_path("The path of the database is empty.")
    if "\0" in text:
        raise _bad_path("The path of the database holds a null character.")
    if text == ":memory:" or text.startswith("file:"):
        raise _bad_path(
            f"{text!r} is not a file that outlives the process, and tokens must."
            if text == ":memory:"
            else f"{text!r} is an SQLite URI, and the store takes a plain path."
        )
    return Path(text)


def _is_scheme(text: str) -> bool:
    return text.translate(dict.fromkeys(map(ord, "+-._"))).isalnum()


def _named(environ: Mapping[str, str]) -> Location:
    if url := environ.get("DATABASE_URL"):
        overruled = environ.get("TOKEN_STORAGE_DB", "")
        return Location(_url_path(url), source="DATABASE_URL", overruled=overruled)
    if path := environ.get("TOKEN_STORAGE_DB"):
        return Location(database_path(path), source="TOKEN_STORAGE_DB")
    if _can_hold_data(DEFAULT_DATABASE.parent):
        return Location(DEFAULT_DATABASE)
    # platformdirs is imported only where the default cannot be used.
    from platformdirs import user_data_path  # noqa: PLC0415

    folder = user_data_path("nextcloud-mcp-server")
    return Location(folder / DEFAULT_DATABASE.name, DEFAULT_DATABASE)


def _url_path(url: str) -> Path:
    """The file that ``DATABASE_URL`` names; a refusal says that it is in the way."""
    try:
        scheme, separator, _ = url.partition("://")
        if not separator or not _is_scheme(scheme):
            raise _bad_path("DATABASE_URL is not a URL; a plain path goes in TOKEN_STORAGE_DB.")
        return database_path(url)
    except TokenStorageError as error:
        raise TokenStorageError(
            error.message,
            code=error.code,
            remedy="Unset DATABASE_URL, which wins over TOKEN_STORAGE_DB, or set it to a URL of "
            "a file: sqlite:////app/data/tokens.db.",
        ) from None


def _can_hold_data(folder: Path) -> bool:
    """Whether ``folder`` is there, or the user may make it. Makes nothing."""
    try:
        for place in (folder, *folder.parents):
            if place.is_dir():
                return place == folder or os.access(place, os.W_OK | os.X_OK)
            if place.exists():
                return False
    except OSError:
        # Somebody else's folder, which this user may not even look into.
        return False
    return False


def _bad_path(message: str) -> TokenStorageError:
    return TokenStorageError(
        message,
        code="bad-path",
        remedy="Give the path of a file, for example -d /app/data/tokens.db "
        "or -u sqlite:////app/data/tokens.db.",
    )


def _unsupported(scheme: str) -> TokenStorageError:
    return TokenStorageError(
        f"This version keeps tokens in SQLite and cannot use a {scheme} database.",
        code="unsupported-database",
        remedy="Use a path (TOKEN_STORAGE_DB, -d) or a URL that begins with sqlite:///.",
    )
