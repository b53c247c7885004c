"""The file that a path or an SQLite URL names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError, holds_key

_SQLITE_SCHEMES: Final = ("sqlite", "sqlite+aiosqlite", "sqlite+pysqlite")

#: The ends of a path that only a folder has.
_FOLDERS: Final = ("/", "/.", "/..")


def database_path(database: str | os.PathLike[str]) -> Path:
    """Return the file of a path or an SQLite URL, as an absolute path.

    In a URL ``%20`` and the like are escapes, as in SQLAlchemy. A path has no escapes. A
    ``~`` at the beginning is a home folder, as in a shell.

    Raises:
        TokenStorageError: ``unsupported-database`` for the URL of another engine,
            ``bad-path`` for anything else that is not the path of a file.
    """
    text = os.fspath(database) if isinstance(database, os.PathLike) else database
    # A start comes here three times, and the first time has made a path of it.
    if isinstance(database, Path) and _is_file_path(database) and not is_key(str(database)):
        return database
    if not isinstance(text, str):
        raise bad_path(f"The path of the database is {type(text).__name__}, not text.")
    if text.startswith("file:"):
        raise bad_path(f"{text!r} is an SQLite URI; a plain path is needed.")
    text = path_text(text)
    if not text.strip():
        raise bad_path("The path of the database is empty.")
    if "\0" in text:
        raise bad_path("The path of the database contains a null character.")
    if text == ":memory:":
        raise bad_path(f"{text!r} is lost when the process ends; tokens need a file.")
    if is_key(text):
        raise no_key("The path of the database", "give -d the path of the database")
    if text.endswith(_FOLDERS) or text in {".", ".."}:
        raise bad_path(f"{text!r} is the path of a folder, not of a file.")
    return absolute_text(text, "the database")


def _is_file_path(path: Path) -> bool:
    return path.is_absolute() and path.name not in {"", ".."} and "\0" not in str(path)


def is_key(path: str) -> bool:
    """Check whether a path is an encryption key in the wrong place: no file is named so."""
    return holds_key(path) and not os.path.exists(path)  # noqa: PTH110 - raises nothing


def no_key(what: str, instead: str, code: str = "bad-path") -> TokenStorageError:
    """Return the error for a setting that holds a key; it does not have the key."""
    return TokenStorageError(
        f"{what} holds a key, not the path of a file.",
        code=code,
        remedy=f"Put the key in TOKEN_ENCRYPTION_KEY, and {instead}.",
    )


def path_text(text: str) -> str:
    """Return the path in an SQLite URL, without escapes; another text as it is.

    Raises:
        TokenStorageError: ``unsupported-database`` or ``bad-path`` for another URL.
    """
    return _path_of_url(text) if is_url(text) else text


def absolute(path: Path) -> Path:
    """Return ``path`` as an absolute one, without following links.

    Raises:
        TokenStorageError: ``bad-path`` if the working directory is gone.
    """
    try:
        return path.absolute()
    except OSError as error:
        raise TokenStorageError(
            f"{path} is a relative path, and the working directory is gone ({error.strerror}).",
            code="bad-path",
            remedy="Change to a folder that exists, or give an absolute path.",
        ) from error


def absolute_text(text: str, what: str) -> Path:
    """Return the absolute path that ``text`` names; ``what`` is its purpose, for the message.

    Raises:
        TokenStorageError: ``bad-path`` for an unknown home folder or working directory.
    """
    path = Path(text)
    if text.startswith("~"):
        path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's raises an unnamed error
        if not path.is_absolute():
            raise TokenStorageError(
                f"The path of {what} is {text!r}, and the home folder that it begins with is "
                "unknown.",
                code="bad-path",
                remedy=f"Give an absolute path; a file that is named like this is ./{text}",
            )
    return absolute(path)


def is_url(text: str) -> bool:
    """Return whether ``text`` begins as a URL does."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.translate(dict.fromkeys(map(ord, "+-._"))).isalnum()


def _path_of_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _SQLITE_SCHEMES:
        raise TokenStorageError(
            f"This program keeps tokens in SQLite or PostgreSQL, not in {scheme}.",
            code="unsupported-database",
            remedy="Use a path (TOKEN_STORAGE_DB, -d) or a URL that begins with sqlite:/// or "
            "postgresql://.",
        )
    if "?" in rest:
        # Dropping the parameters, as is usual, would open the file 'x' for 'x?y.db'.
        raise bad_path("An SQLite URL takes no parameters here; write %3F for a '?' in a name.")
    if rest and not rest.startswith("/"):
        raise bad_path(
            "An SQLite URL has three slashes before a relative path and four before "
            f"an absolute one: {scheme}:////path/to/tokens.db; this one has a host."
        )
    # Imported only for a URL: the import takes as long as inspecting a database.
    from urllib.parse import unquote  # noqa: PLC0415

    return unquote(rest.removeprefix("/"))


def bad_path(message: str) -> TokenStorageError:
    """Return the error for what is not the path of a file."""
    return TokenStorageError(
        message,
        code="bad-path",
        remedy="Give the path of a file, for example -d /app/data/tokens.db "
        "or -u sqlite:////app/data/tokens.db.",
    )
