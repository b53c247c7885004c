"""Find the encryption keys.

They come from, in this order: the caller, ``TOKEN_ENCRYPTION_KEY``,
``TOKEN_ENCRYPTION_KEY_FILE``, the file ``<database>.key``.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet

from nextcloud_mcp_server.concurrency import start
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.filesystem.errors import naming
from nextcloud_mcp_server.filesystem.files import check_path, follow, read_small, write_private
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.secret import Secret, SecretBytes
from nextcloud_mcp_server.settings import Settings, split_keys, trusted_owners

logger = logging.getLogger(__name__)

#: The largest size of a key file, in bytes: more than a thousand keys.
_LONGEST: Final = 65_536

#: The byte order marks that an editor or PowerShell puts in front, and the encodings.
_MARKS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

#: Seconds to wait for the key file of the settings, which can be on another, dead file system.
_PATIENCE: Final = 10.0

#: What a key file may have in it: a comment would be a key that is malformed.
_ONE_A_LINE: Final = "A key file has one key in each line, and nothing else."

#: The place of a database. A server has no file beside it.
Place = Path | ServerUrl


def key_path(database: Path) -> Path:
    """Return the key file beside ``database``."""
    return database.with_name(database.name + ".key")


def given_keyring(
    keys: str | bytes | Sequence[str | bytes] | None, settings: Settings
) -> Keyring | None:
    """Return the keyring of the caller or the settings; None if neither gives a key.

    The file beside the database is read under the lock only: another start may be creating it.

    Raises:
        TokenStorageError: ``malformed-key``, or ``key-missing`` if the key file in the
            settings cannot be read.
    """
    if keys is not None:
        return Keyring(keys)
    if settings.keys:
        return Keyring(settings.keys, places=["TOKEN_ENCRYPTION_KEY"] * len(settings.keys))
    return None if settings.key_file is None else _read_in_time(settings)


def find_keyring(settings: Settings, database: Place) -> Keyring | None:
    """Return the keyring that a start would use; None if it would create a key.

    Raises:
        TokenStorageError: as :func:`given_keyring`, for the file beside the database too.
    """
    return given_keyring(None, settings) or keyring_beside(database)


def keys_of_file(settings: Settings, database: Place) -> Keyring | None:
    """Read the keys of a file again; None if they do not come from one.

    Raises:
        TokenStorageError: as :func:`find_keyring`.
    """
    if settings.keys:
        return None
    return keyring_beside(database) if settings.key_file is None else _read_in_time(settings)


def available_keyring(settings: Settings) -> Keyring | None:
    """Return the keyring that a start would use, unverified; None if it would create a key.

    Raises:
        TokenStorageError: as :func:`find_keyring`; ``bad-path`` if the path of the database
            cannot be one.
    """
    database = settings.database
    if isinstance(database, Path):
        check_path(database)
        database = follow(database)
    return find_keyring(settings, database)


def fingerprints(settings: Settings) -> tuple[str, ...] | None:
    """Return those of the available keys, for a manifest; None if no key can be read."""
    try:
        keyring = available_keyring(settings)
    except TokenStorageError:
        return None
    return None if keyring is None else keyring.fingerprints


def require_trusted_key(database: Place) -> None:
    """Fail if another user can have put, changed or read the key file beside ``database``.

    A group may read it.

    Raises:
        TokenStorageError: ``untrusted``.
    """
    if isinstance(database, Path):
        _require_trusted(key_path(database), database)


def _require_trusted(path: Path, database: Place, opened: os.stat_result | None = None) -> None:
    """Fail if a key file, or a link that leads to it, is not this user's, root's or trusted.

    Only its owner may write it. Elsewhere than beside the database every user may read it, as
    with the secrets of containers.

    Args:
        path: the key file.
        database: its database.
        opened: the status of the open file; None to check the names before it is opened.

    Raises:
        TokenStorageError: ``untrusted``.
    """
    owned_with = database if isinstance(database, Path) else None
    bits = permissions.GROUP_WRITE | stat.S_IWOTH
    if _is_beside(path, database):
        bits |= permissions.OTHERS
    trusted = trusted_owners()
    if opened is None:
        permissions.require_trusted(path, owned_with, trusted, forbidden=bits, own=bits)
        return
    permissions.require_trusted_status(path, opened, owned_with, trusted, forbidden=bits, own=bits)
    mode = stat.S_IMODE(opened.st_mode)
    if mode & permissions.OTHERS:
        how = permissions.uses(mode)
        logger.warning("Every user can %s the key file %s (mode %04o)", how, path, mode)


def _is_beside(path: Path, database: Place) -> bool:
    """Return whether a key file, and not only a link to it, is in the folder of the database."""
    return isinstance(database, Path) and follow(path).parent == follow(database).parent


def keyring_beside(database: Place) -> Keyring | None:
    """Return the keyring of the file beside ``database``; None if there is no such file.

    Raises:
        TokenStorageError: as :func:`given_keyring`; ``untrusted``.
    """
    if not isinstance(database, Path):
        return None
    path = key_path(database)
    with naming(path):
        try:
            # A link to a secret that is not mounted is a missing key, and must not be replaced.
            path.lstat()
        except FileNotFoundError:
            return None
    return _read(path, database)


def _read_in_time(settings: Settings) -> Keyring:
    """Read a key file in a thread, because no other wait for a file system can be ended."""
    path = Path(settings.key_file or "")
    answer: Future[Keyring] = Future()

    def read() -> None:
        try:
            answer.set_result(_read(path, settings.database))
        except BaseException as error:  # noqa: BLE001 - raised below
            answer.set_exception(error)

    start(threading.Thread(target=read, name="key-file", daemon=True))
    try:
        return answer.result(_PATIENCE)
    except TimeoutError:
        raise _unreadable(
            path, f"its file system does not answer in {_PATIENCE:g} seconds"
        ) from None


def _read(path: Path, database: Place) -> Keyring:
    _require_trusted(path, database)
    beside = _is_beside(path, database)
    try:
        content = SecretBytes(
            read_small(
                follow(path) if beside else path,
                _LONGEST,
                check=partial(_require_trusted, path, database),
                # Elsewhere a container's secret is a link, which is renewed at any moment.
                link=not beside,
            )
        )
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, PermissionError):
            reason = permissions.closed_by(path) or reason
        raise _unreadable(path, reason) from error
    text = _text(content)
    if text is None:
        raise TokenStorageError(
            f"The key file {path} cannot be read (it is not text in UTF-8).",
            code="key-missing",
            remedy="Save it as UTF-8 (in PowerShell: Set-Content -Encoding ascii), or put the key "
            "back; tokens cannot be opened without their key.",
        )
    lines = enumerate(text.splitlines(), 1)
    found = [(f"line {n} of {path}", key) for n, line in lines for key in split_keys(Secret(line))]
    if not found:
        raise TokenStorageError(
            f"The key file {path} is empty.",
            code="key-missing",
            remedy="Put the key back; tokens cannot be opened without it.",
        )
    places, keys = zip(*found, strict=True)
    return Keyring(keys, places=places, hint=_ONE_A_LINE)


def _text(content: SecretBytes) -> Secret | None:
    """Return the text of a key file, also if it is in UTF-16 with its mark; None if it is none."""
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    with suppress(UnicodeDecodeError):
        text = content.decode(encoding)
        # UTF-16 without its mark.
        return None if "\0" in text else text
    return None


def _unreadable(path: Path, detail: str) -> TokenStorageError:
    return TokenStorageError(
        f"The key file {path} cannot be read ({detail}).",
        code="key-missing",
        remedy="Put the key back as a regular file that this user can read; tokens cannot be "
        "opened without their key.",
    )


def make_key(database: Place) -> Keyring:
    """Create a key in the file beside ``database``; a server has none.

    Raises:
        TokenStorageError: ``key-missing`` for a server.
    """
    if not isinstance(database, Path):
        # Beside a server each machine would make one of its own.
        raise TokenStorageError(
            f"No key was given, and none is made for {database}: each server would have its own.",
            code="key-missing",
            remedy="Make one key for all servers: nextcloud-mcp-server keys generate - and set "
            "TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE for each of them.",
        )
    path = key_path(database)
    key = SecretBytes(Fernet.generate_key())
    with naming(path):
        try:
            write_private(path, SecretBytes(key + b"\n"), database)
        except FileExistsError:
            # Another start that no lock kept out was faster.
            return _read(path, database)
    logger.warning(
        "Created an encryption key in %s: keep a copy, and move it away from the tokens, into "
        "TOKEN_ENCRYPTION_KEY, or into a file that TOKEN_ENCRYPTION_KEY_FILE names",
        path,
    )
    return Keyring([key])
