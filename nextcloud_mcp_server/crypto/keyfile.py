"""Where the encryption keys come from, and whether they are the right ones.

In this order: keys that the caller gives, ``TOKEN_ENCRYPTION_KEY``,
``TOKEN_ENCRYPTION_KEY_FILE``, the file ``<database>.key``. Where there is none and the
database holds no encrypted value yet, that last file is made once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cryptography.fernet import Fernet

from nextcloud_mcp_server.backends.sqlite.inspect import SAMPLED
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.errors import naming
from nextcloud_mcp_server.filesystem.files import check_path, follow, write_private
from nextcloud_mcp_server.settings import Settings, split_keys

logger = logging.getLogger(__name__)

#: Reads up to so many encrypted values of each column (None: all of them).
Samples = Callable[[int | None], Iterable[bytes]]


def key_path(database: Path) -> Path:
    """The key file beside ``database``."""
    return database.with_name(database.name + ".key")


def given_keyring(
    keys: str | bytes | Sequence[str | bytes] | None, settings: Settings
) -> Keyring | None:
    """The keyring of the keys that somebody gave; None where nobody gave any.

    The file beside the database is not looked at: what a look outside the lock does not
    find, another start may be making.

    Raises:
        TokenStorageError: ``malformed-key``, or ``key-missing`` for a key file that is
            named and cannot be read.
    """
    if keys is not None:
        return Keyring(keys)
    if settings.keys:
        return Keyring(settings.keys)
    return None if settings.key_file is None else _read(settings.key_file)


def find_keyring(settings: Settings, database: Path) -> Keyring | None:
    """The keyring that a start would use; None where it would make a key. Makes nothing.

    Raises:
        TokenStorageError: as :func:`given_keyring`, for the file beside the database too.
    """
    return given_keyring(None, settings) or _beside(database)


def at_hand(settings: Settings) -> Keyring | None:
    """The keyring that a start would use, without proving or making one; None for none.

    Raises:
        TokenStorageError: as :func:`given_keyring`; ``bad-path`` where no database can lie.
    """
    check_path(settings.database)
    return given_keyring(None, settings) or _beside(follow(settings.database))


def fingerprints(settings: Settings) -> tuple[str, ...] | None:
    """Those of the keys at hand; None for none, or none that can be read.

    They go into a backup's manifest, and no backup fails for want of them.
    """
    try:
        keyring = at_hand(settings)
    except TokenStorageError:
        return None
    return None if keyring is None else keyring.fingerprints


def prover(settings: Settings) -> Callable[[Samples], Sequence[str] | None]:
    """What proves the keys at hand on a database that is only migrated, not opened.

    A migration needs no key, so none at hand is no error; a wrong one is, here as at the
    start of the server that would come next.

    Raises:
        TokenStorageError: as :func:`given_keyring`; what is answered raises ``wrong-key``.
    """
    keyring = at_hand(settings)

    def prove(samples: Samples) -> Sequence[str] | None:
        if keyring is None:
            return None
        return settle(keyring, samples, settings.database).fingerprints

    return prove


def _beside(database: Path) -> Keyring | None:
    path = key_path(database)
    with naming(path):
        try:
            # A link to a secret that is not mounted is a key that is missing, not no key.
            path.lstat()
        except FileNotFoundError:
            return None
    return _read(path)


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
    """The keyring to open ``database`` with, proven on what is in it. Only under the lock.

    Args:
        keyring: what :func:`given_keyring` found.
        samples: reads encrypted values of the database.
        database: its path.

    Raises:
        TokenStorageError: ``key-missing`` where there are encrypted values and no key,
            ``wrong-key`` where no key opens any of them, ``malformed-key`` for what the file
            beside the database holds. Nothing has been written then.
    """
    keyring = keyring or _beside(database)
    values = list(samples(SAMPLED))
    if keyring is None:
        if values:
            raise _missing(database)
        return _make(database)
    if not values or any(keyring.can_decrypt(value) for value in values):
        return keyring
    if any(keyring.can_decrypt(value) for value in samples(None)):
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
    with naming(path):
        try:
            write_private(path, key + b"\n", database)
        except FileExistsError:
            # Another start that no lock kept out was faster.
            return _read(path)
    logger.warning(
        "Made an encryption key in %s: move it away from the tokens, into "
        "TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE, and keep a copy",
        path,
    )
    return Keyring([key])
