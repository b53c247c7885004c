"""What a stored value is: its format, the key that it needs, and whether that opens it. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from nextcloud_mcp_server.auth.secrets import FERNET_COLUMNS
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.binding import binding, is_hashed, stored_id
from nextcloud_mcp_server.crypto.key import PREFIX, is_v2, key_id
from nextcloud_mcp_server.crypto.keyring import Keyring, as_bytes
from nextcloud_mcp_server.crypto.registration import FERNET, V2, accepts_old, given_primary
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.secrets import HASHED, SecretColumn, secrets_of

#: The format of a value that nothing encrypts, or of an id that is not hashed.
PLAIN: Final = "plain"

#: Why a value is not opened.
NO_KEY: Final = "no given key opens it"
CHANGED: Final = "changed, or of another row"
NOT_ACCEPTED: Final = "in the format of an older version, which is not accepted any more"

_IDS: Final = frozenset(HASHED)


class Value(NamedTuple):
    """A stored value.

    Attributes:
        column: where it is.
        stored: the value.
        kind: ``v2``, ``fernet`` or ``plain``.
        key: the id of its key for ``v2``, the fingerprint for ``fernet``; empty if that is unknown.
        plaintext: what it holds; None if it is not opened, or is the hash of an id.
        reason: why it is not opened; empty if it is.
    """

    column: str
    stored: Any
    kind: str
    key: str = ""
    plaintext: bytes | None = None
    reason: str = ""


def values_of(
    table: str, row: Mapping[str, Any], keyring: Keyring | None, known: Sequence[RegisteredKey]
) -> Iterator[Value]:
    """Yield each secret and each hashed id of a row, which has the columns that they are bound to.

    Args:
        table: the name of the table.
        row: its values; those that are None are skipped.
        keyring: the given keys.
        known: the registered keys; without any, old formats are accepted.
    """
    for name, secret in secrets_of(table).items():
        if row.get(name) is not None:
            yield _secret(secret, row, keyring, known)
    for name in (name for of, name in HASHED if of == table):
        if row.get(name) is not None:
            yield _id(name, row[name], keyring, known)


def is_id(table: str, column: str) -> bool:
    """Return whether a column holds an id that is hashed."""
    return (table, column) in _IDS


def _secret(
    secret: SecretColumn,
    row: Mapping[str, Any],
    keyring: Keyring | None,
    known: Sequence[RegisteredKey],
) -> Value:
    stored = row[secret.column]
    raw = as_bytes(stored)
    if raw.startswith(PREFIX) and not _is_plain(secret, raw, keyring, known):
        found = Value(secret.column, stored, V2, key_id(raw) or "")
        if found.key and (keyring is None or keyring.get(found.key) is None):
            return found._replace(reason=NO_KEY)
        opened = None if keyring is None else keyring.opened(raw, binding(secret, row))
        return _with(found, CHANGED if opened is None else "", opened and opened[1])
    if secret not in FERNET_COLUMNS:
        return _plain(secret.column, stored, keyring, known)
    opened = None if keyring is None else keyring.opened(raw, b"")
    if opened is None:
        return Value(secret.column, stored, FERNET, reason=NO_KEY)
    key, plaintext = opened
    found = Value(secret.column, stored, FERNET, key.fingerprint)
    accepted = _accepts(known, keyring, key.fingerprint)
    return _with(found, "" if accepted else NOT_ACCEPTED, plaintext)


def _is_plain(
    secret: SecretColumn,
    raw: bytes,
    keyring: Keyring | None,
    known: Sequence[RegisteredKey],
) -> bool:
    """Return whether a text that begins as ours is one of others, in a column for plain text.

    It names no key of ours: the token of a provider. One with all of the form counts as ours, of a
    key that is lost, where no plain text is accepted.
    """
    if secret in FERNET_COLUMNS:
        return False
    name = key_id(raw)
    if any(row.id == name for row in known) or (keyring and name and keyring.get(name)):
        return False
    return not is_v2(raw) or _accepts(known, keyring)


def _id(column: str, stored: Any, keyring: Keyring | None, known: Sequence[RegisteredKey]) -> Value:
    if is_hashed(stored_text(stored)):
        return Value(column, stored, V2)
    return _plain(column, stored, keyring, known)


def _plain(
    column: str, stored: Any, keyring: Keyring | None, known: Sequence[RegisteredKey]
) -> Value:
    found = Value(column, stored, PLAIN)
    accepted = _accepts(known, keyring)
    # Text that is not UTF-8 has surrogates here.
    text = stored_text(stored).encode("utf-8", "surrogateescape")
    return _with(found, "" if accepted else NOT_ACCEPTED, text)


def _accepts(
    known: Sequence[RegisteredKey], keyring: Keyring | None, fingerprint: str | None = None
) -> bool:
    """Return whether a value of a released version is accepted.

    Without the primary key that is what the states say: they cannot be verified.
    """
    if not known:
        return True
    if keyring is not None:
        try:
            given_primary(known, keyring)
        except TokenStorageError as error:
            if error.code == "keys-changed":
                return False
    return accepts_old(known, fingerprint)


def _with(value: Value, reason: str, plaintext: bytes | None) -> Value:
    return value._replace(plaintext=None if reason else plaintext, reason=reason)


def stored_text(stored: Any) -> str:
    """Return a stored value as text; bytes that are not UTF-8 become surrogates."""
    text = stored.decode("utf-8", "surrogateescape") if isinstance(stored, bytes) else stored
    return text if isinstance(text, str) else str(text)


def row_name(table: str, row: Mapping[str, Any], at: object) -> str:
    """Return how a row is named to people. An id that is a credential is shown as its hash."""
    if is_id(table, "session_id"):
        name = row.get("session_id")
        return f"row {at}" if name is None else str(stored_id(name))
    name = row.get("client_id" if table == "oauth_clients" else "user_id")
    # The key of a table of an early release can be NULL.
    return f"row {at}" if name is None else str(name)
