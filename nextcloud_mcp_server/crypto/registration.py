"""The registered keys of a database: their kinds and states, and whether one was given. No I/O.

The check value of the primary key signs the whole table: every row but those of keys that are only
introduced, which may do nothing yet. So nobody without that key can let another one encrypt, let
values of released versions be accepted, or register a key for forged entries of the audit log.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.crypto.key import Key, associated_data
from nextcloud_mcp_server.errors import TokenStorageError

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.keys import RegisteredKey
    from nextcloud_mcp_server.crypto.keyring import Keyring

#: The kinds: one encrypts, the other opens what released versions have stored.
V2: Final = "v2"
FERNET: Final = "fernet"

#: The states: it opens; it encrypts too; it opens what is not rotated yet; no row needs it.
INTRODUCED: Final = "introduced"
PRIMARY: Final = "primary"
FORMER: Final = "former"
RETIRED: Final = "retired"

_STATES: Final = (INTRODUCED, PRIMARY, FORMER, RETIRED)
_ID: Final = "[0-9a-f]{16}"
_FINGERPRINT: Final = "[0-9a-f]{8}"

#: What the column ``check`` holds, encrypted.
_CONSTANT: Final = b"nextcloud-mcp-server"


def accepted(known: Iterable[RegisteredKey]) -> list[str]:
    """Return the ids of the keys of the kind ``fernet`` that are not retired, sorted."""
    return sorted(row.id for row in known if row.kind == FERNET and row.state != RETIRED)


def name_of(key: Key, kind: str) -> str:
    """Return the id under which a key is registered for a kind."""
    return key.fingerprint if kind == FERNET else key.id


def is_well_formed(row: RegisteredKey) -> bool:
    """Return whether this program can have written a row."""
    names = {V2: _ID, FERNET: _FINGERPRINT}
    return (
        row.kind in names
        and row.state in _STATES
        and re.fullmatch(names[row.kind], row.id) is not None
        and re.fullmatch(_FINGERPRINT, row.fingerprint) is not None
    )


def check_value(key: Key, kind: str) -> str:
    """Return the encrypted constant that tells whether a key, not the primary, is registered."""
    if kind == FERNET:
        return key.encrypt_fernet(_CONSTANT).decode("ascii")
    return key.seal(_CONSTANT, associated_data("check", key.id)).decode("ascii")


def signed(known: Iterable[RegisteredKey]) -> list[RegisteredKey]:
    """Return the rows that the primary key signs, sorted."""
    return sorted(row for row in known if (row.kind, row.state) != (V2, INTRODUCED))


def primary_check(key: Key, known: Iterable[RegisteredKey]) -> str:
    """Return the encrypted constant of the primary key, which signs ``known``, itself included."""
    return key.seal(_CONSTANT, _of_primary(key, known)).decode("ascii")


def _of_primary(key: Key, known: Iterable[RegisteredKey]) -> bytes:
    parts: list[str | int] = []
    for row in signed(known):
        parts += (row.id, row.kind, row.state, row.fingerprint, row.created_at)
    return associated_data("primary", key.id, *parts)


def is_checked(row: RegisteredKey, key: Key, known: Iterable[RegisteredKey] = ()) -> bool:
    """Return whether ``key`` is the registered one, in its state.

    Args:
        row: how it is registered.
        key: a given key.
        known: every registered key, which the primary one has signed.
    """
    if key.fingerprint != row.fingerprint or row.id != name_of(key, row.kind):
        return False
    text = row.check.encode("ascii")
    if row.kind == FERNET:
        opened = key.open_fernet(text)
    elif row.state == PRIMARY:
        opened = key.open(text, _of_primary(key, known))
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

    Args:
        known: the registered keys, at least one.
        keyring: the given keys.
        database: its name in an error.

    Raises:
        TokenStorageError: ``wrong-key`` if it was not given; ``keys-changed`` if somebody without
            it has changed what is registered.
    """
    rows = [row for row in known if row.state == PRIMARY]
    if len(rows) != 1 or not all(map(is_well_formed, known)):
        raise _keys_changed(database)
    [row] = rows
    if (key := keyring.get(row.id)) is None and keyring.get(row.fingerprint) is None:
        raise wrong_key(known, keyring, database)
    if key is None or row.kind != V2 or not is_checked(row, key, known):
        raise _keys_changed(database)
    return key


def _keys_changed(database: str) -> TokenStorageError:
    return TokenStorageError(
        f"The table keys of {database} was changed without the key that encrypts: it is not what "
        "that key has signed. Nothing was written.",
        code="keys-changed",
        remedy="Find out who can write to the database, and what was changed (keys list and db "
        "audit verify show it). Then restore a backup, or let your newest key sign the table again "
        "(keys promote with --recover).",
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
        remedy="Set TOKEN_ENCRYPTION_KEY to the key that the secrets were encrypted with (several: "
        "NEWEST;OLDER), here and for every server.",
    )
