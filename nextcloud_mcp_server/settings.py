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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.location import database_path, locate

DEFAULT_LOCK_TIMEOUT: Final = 600.0

#: Those of the table above that :func:`load_settings` reads.
VARIABLES: Final = (
    "DATABASE_URL",
    "TOKEN_STORAGE_DB",
    "TOKEN_ENCRYPTION_KEY",
    "TOKEN_ENCRYPTION_KEY_FILE",
    "TOKEN_STORAGE_LOCK_TIMEOUT",
)


@dataclass(frozen=True, slots=True)
class Settings:
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
        return replace(
            self, database=database_path(database), fallback_from=None, source="", overruled=""
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
