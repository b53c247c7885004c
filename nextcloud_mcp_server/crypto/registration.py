"""The registered keys of a database: their kinds and states, and whether one was given. No I/O.

The check value of the primary key is bound to what the others may do: to be primary, and which keys
of the kind ``fernet`` are accepted. So nobody without that key can let another one encrypt, or
values of released versions be accepted.
"""

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


def accepted(known: Sequence[RegisteredKey]) -> list[str]:
    """Return the ids of the keys of the kind ``fernet`` that are not retired, sorted."""
    return sorted(row.id for row in known if row.kind == FERNET and row.state != RETIRED)


def check_value(key: Key, kind: str) -> str:
    """Return the encrypted constant that tells whether a key, not the primary, is registered."""
    if kind == FERNET:
        return key.encrypt_fernet(_CONSTANT).decode("ascii")
    return key.seal(_CONSTANT, associated_data("check", key.id)).decode("ascii")


def primary_check(key: Key, accepting: Sequence[str]) -> str:
    """Return the encrypted constant of the primary key, bound to what is :func:`accepted`."""
    return key.seal(_CONSTANT, _of_primary(key, accepting)).decode("ascii")


def _of_primary(key: Key, accepting: Sequence[str]) -> bytes:
    return associated_data("primary", key.id, *accepting)


def is_checked(row: RegisteredKey, key: Key, accepting: Sequence[str] = ()) -> bool:
    """Return whether ``key`` is the registered one, in its state.

    Args:
        row: how it is registered.
        key: a given key.
        accepting: what is :func:`accepted`; it counts for the primary key.
    """
    text = row.check.encode("utf-8", "replace")
    if row.kind == FERNET:
        opened = key.open_fernet(text)
    elif row.state == PRIMARY:
        opened = key.open(text, _of_primary(key, accepting))
    else:
        opened = key.open(text, associated_data("check", key.id))
    return opened is not None and hmac.compare_digest(opened, _CONSTANT)


def accepts_old(known: Sequence[RegisteredKey], fingerprint: str | None = None) -> bool:
    """Return whether values of released versions are accepted where ``known`` are registered.

    That holds only if :func:`given_primary` does not raise: the states may have been changed.

    Args:
        known: the registered keys, at least one.
        fingerprint: of the key that opens the value; None for a value in plain text.
    """
    old = {(row.fingerprint, row.state) for row in known if row.kind == FERNET}
    return bool(accepted(known)) and (fingerprint, RETIRED) not in old


def given_primary(
    known: Sequence[RegisteredKey], keyring: Keyring, database: str = "the database"
) -> Key:
    """Return the key of the keyring that is the primary one of ``known``.

    Raises:
        TokenStorageError: ``wrong-key`` if it was not given; ``keys-changed`` if somebody without
            it has changed what is registered.
    """
    rows = [row for row in known if row.state == PRIMARY]
    given = [(row, key) for row in rows if (key := keyring.get(row.id)) is not None]
    if not given:
        raise wrong_key(known, keyring, database)
    row, key = given[0]
    if len(rows) > 1 or not is_checked(row, key, accepted(known)):
        raise keys_changed(key, database)
    return key


def keys_changed(key: Key, database: str) -> TokenStorageError:
    """Return the error for registered keys that somebody has changed without the primary one."""
    return TokenStorageError(
        f"The table keys of {database} was changed without key {key.fingerprint}: which key "
        "encrypts, or what is accepted, is not what that key has signed; nothing was written.",
        code="keys-changed",
        remedy="Compare nextcloud-mcp-server keys list with nextcloud-mcp-server db audit list, "
        "and undo the change: keys retire NAME --fernet, keys promote NAME, or restore a backup. "
        "Find out who can write to the database.",
    )


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
