"""The registered keys of a database: their kinds and states, and whether one was given. No I/O."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.crypto.key import Key, associated_data
from nextcloud_mcp_server.errors import TokenStorageError

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import RegisteredKey
    from nextcloud_mcp_server.crypto.keyring import Keyring

#: The kinds: one encrypts, the other opens what released versions have stored.
V2: Final = "v2"
FERNET: Final = "fernet"

#: The states: it opens; it encrypts too; it opens what is not rotated yet; no row needs it.
INTRODUCED: Final = "introduced"
PRIMARY: Final = "primary"
FORMER: Final = "former"
RETIRED: Final = "retired"

#: What the column ``check`` holds, encrypted.
_CONSTANT: Final = b"nextcloud-mcp-server"


def check_value(key: Key, kind: str) -> str:
    """Return the encrypted constant that tells whether a key is the registered one."""
    if kind == FERNET:
        return key.encrypt_fernet(_CONSTANT).decode("ascii")
    return key.seal(_CONSTANT, associated_data("check", key.id)).decode("ascii")


def is_checked(row: RegisteredKey, key: Key) -> bool:
    """Return whether ``key`` is the registered one: whether it opens the constant."""
    text = row.check.encode("utf-8", "replace")
    if row.kind == FERNET:
        opened = key.open_fernet(text)
    else:
        opened = key.open(text, associated_data("check", key.id))
    return opened is not None and hmac.compare_digest(opened, _CONSTANT)


def accepts_old(known: Sequence[RegisteredKey], fingerprint: str | None = None) -> bool:
    """Return whether values of released versions are accepted where ``known`` are registered.

    Args:
        known: the registered keys, at least one.
        fingerprint: of the key that opens the value; None for a value in plain text.
    """
    old = [row for row in known if row.kind == FERNET]
    if all(row.state == RETIRED for row in old):
        return False
    return (fingerprint, RETIRED) not in {(row.fingerprint, row.state) for row in old}


def given_primary(
    known: Sequence[RegisteredKey], keyring: Keyring, database: str = "the database"
) -> Key:
    """Return the key of the keyring that is the primary one of ``known``.

    Raises:
        TokenStorageError: ``wrong-key``.
    """
    for row in known:
        if row.state == PRIMARY:
            key = keyring.get(row.id)
            if key is not None and is_checked(row, key):
                return key
    raise wrong_key(known, keyring, database)


def wrong_key(
    known: Sequence[RegisteredKey], keyring: Keyring, database: str = "the database"
) -> TokenStorageError:
    """Return the error for keys that the database was not encrypted with."""
    given = " and ".join(keyring.fingerprints)
    if expected := [row.fingerprint for row in known if row.state == PRIMARY]:
        message = f"{database} needs key {expected[0]}, and the given key is {given}"
    else:
        message = f"No given key ({given}) opens the encrypted values in {database}"
    return TokenStorageError(
        f"{message}; nothing was written.",
        code="wrong-key",
        remedy="Give every server the key that the secrets were encrypted with in "
        "TOKEN_ENCRYPTION_KEY (several: NEWEST;OLDER), and start it again.",
    )
