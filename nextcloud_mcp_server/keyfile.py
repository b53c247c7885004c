"""Where the encryption keys come from, and whether they are the right ones.

In this order: keys that the caller gives, ``TOKEN_ENCRYPTION_KEY``,
``TOKEN_ENCRYPTION_KEY_FILE``, the file ``<database>.key``. Where there is none and the
database holds no encrypted value yet, that last file is made once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.fernet import Fernet

from nextcloud_mcp_server.backends.sqlite.faults import naming
from nextcloud_mcp_server.backends.sqlite.files import sync_folder
from nextcloud_mcp_server.crypto import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import Settings, split_keys

logger = logging.getLogger(__name__)

#: Reads up to so many encrypted values of each column (None: all of them).
Samples = Callable[[int | None], Sequence[bytes]]

#: Values looked at first. Only where none of them opens are all the others.
_FIRST = 16


def key_path(database: Path) -> Path:
    """The key file beside ``database``."""
    return database.with_name(database.name + ".key")


def given_keyring(
    keys: str | bytes | Sequence[str | bytes] | None, settings: Settings
) -> Keyring | None:
    """The keyring of the keys that somebody gave; None where nobody gave any.

    Raises:
        TokenStorageError: ``malformed-key``, or ``key-missing`` for a key file that is
            named and cannot be read.
    """
    if keys is not None:
        return Keyring([keys] if isinstance(keys, str | bytes) else list(keys))
    if settings.keys:
        return Keyring(settings.keys)
    if settings.key_file is not None:
        return _read(settings.key_file)
    beside = key_path(settings.database)
    return _read(beside) if beside.exists() else None


def _read(path: Path) -> Keyring:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        detail = getattr(error, "strerror", None) or "it is not text"
        raise TokenStorageError(
            f"The key file {path} cannot be read ({detail}).",
            code="key-missing",
            remedy="Put it back, or give this user permission to read it; tokens cannot be "
            "opened without their key.",
        ) from error
    keys = split_keys(text.replace("\n", ";"))
    if not keys:
        raise TokenStorageError(
            f"The key file {path} is empty.",
            code="key-missing",
            remedy="Put the key back; tokens cannot be opened without it.",
        )
    return Keyring(keys)


def settle(keyring: Keyring | None, samples: Samples, database: Path) -> Keyring:
    """The keyring to open ``database`` with, proven on what is in it.

    Args:
        keyring: what :func:`given_keyring` found.
        samples: reads encrypted values of the database.
        database: its path.

    Raises:
        TokenStorageError: ``key-missing`` where there are encrypted values and no key,
            ``wrong-key`` where no key opens any of them. Nothing has been written then.
    """
    values = samples(_FIRST)
    if keyring is None:
        if values:
            raise _missing(database)
        return _make(database)
    if not values or any(keyring.opens(value) for value in values):
        return keyring
    if any(keyring.opens(value) for value in samples(None)):
        return keyring
    raise TokenStorageError(
        f"No given key opens the encrypted values in {database}.",
        code="wrong-key",
        remedy="Give the key that they were written with in TOKEN_ENCRYPTION_KEY "
        "(several: NEWEST;OLDER); nothing was changed.",
    )


def _missing(database: Path) -> TokenStorageError:
    return TokenStorageError(
        f"{database} holds encrypted values, and no key was given.",
        code="key-missing",
        remedy="Set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE to the key that they "
        f"were written with, or put it back at {key_path(database)}; nothing was changed.",
    )


def _make(database: Path) -> Keyring:
    path = key_path(database)
    key = Fernet.generate_key()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with naming(path):
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(descriptor, key + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            # Complete or not there at all: half a key would be worse than none.
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
    logger.warning(
        "Made an encryption key in %s: move it away from the tokens, into "
        "TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE, and keep a copy",
        path,
    )
    return Keyring([key])
