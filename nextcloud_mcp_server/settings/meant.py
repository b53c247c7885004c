"""Refuse a path or URL that nobody means: with quotes or variables in it, a key, several files."""

from __future__ import annotations

import os
from contextlib import suppress

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.literal import not_literal
from nextcloud_mcp_server.filesystem.paths import is_key, is_url, no_key, path_text
from nextcloud_mcp_server.secret import hidden


def require_meant(variable: str, text: str, remedy: str = "") -> None:
    """Fail if a path or URL has what a shell would have removed or replaced.

    A file of that name is used if it exists. The value may hold a password, so no error has it.

    Raises:
        TokenStorageError: ``bad-path``.
    """
    text = hidden(text)
    path = hidden(_path_if_any(text))
    what = not_literal(hidden(text).reveal()) or (path and not_literal(path.reveal()))
    if not what or os.path.exists(path):  # noqa: PTH110 - raises nothing
        return
    raise TokenStorageError(
        f"{variable} {what}, and there is no file of that name.",
        code="bad-path",
        remedy=f"Set {variable} to the path as it is, without quotes, blanks or variables: "
        f"Docker's --env-file, Compose and systemd do not read it as a shell does.{remedy}",
    )


def require_no_key(variable: str, text: str) -> None:
    """Fail if a path or URL is an encryption key. A file of that name is used if it exists.

    Raises:
        TokenStorageError: ``malformed-key`` in place of the file with the keys, else ``bad-path``.
    """
    text = hidden(text)
    if is_key(_path_if_any(text)):
        code = "malformed-key" if variable == "TOKEN_ENCRYPTION_KEY_FILE" else "bad-path"
        what = "URL" if variable == "DATABASE_URL" else "path"
        raise no_key(variable, f"unset {variable} or set it to the {what} of a file", code)


def require_one_file(text: str) -> None:
    """Fail if ``TOKEN_ENCRYPTION_KEY_FILE`` is a URL or names several files.

    Raises:
        TokenStorageError: ``bad-path``.
    """
    text = hidden(text)
    paths = hidden([path.strip() for path in text.replace(",", ";").split(";")])
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
