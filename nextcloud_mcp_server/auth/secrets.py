"""Encrypt the secrets of a row when it is written, and decrypt them when it is read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.crypto.binding import binding, is_hashed
from nextcloud_mcp_server.crypto.key import PREFIX, decoded, key_id
from nextcloud_mcp_server.crypto.keyring import as_bytes
from nextcloud_mcp_server.crypto.registration import PRIMARY
from nextcloud_mcp_server.errors import KeyNotGivenError, TokenStorageError
from nextcloud_mcp_server.schema.secrets import SECRETS, SecretColumn, secrets_of
from nextcloud_mcp_server.schema.tables import Ciphertext, metadata
from nextcloud_mcp_server.secret import Secret

if TYPE_CHECKING:
    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row
    from nextcloud_mcp_server.crypto.key import Key

_OF_TABLE: Final = {secret.table: secrets_of(secret.table) for secret in SECRETS}
#: The columns that are never in plain text. The others hold text, which released versions have not
#: encrypted.
FERNET_COLUMNS: Final = frozenset(
    secret
    for secret in SECRETS
    if isinstance(metadata.tables[secret.table].c[secret.column].type, Ciphertext)
)


def has_secrets(table: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether there is something to encrypt in the parameters of a write."""
    return any(parameters.get(name) is not None for name in _OF_TABLE.get(table, ()))


def sealed(table: str, parameters: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """Return the parameters of a write with each secret encrypted and bound to its row."""
    row = dict(parameters)
    for name, secret in _OF_TABLE[table].items():
        if (plaintext := row.get(name)) is not None:
            ciphertext = key.seal(plaintext.encode("utf-8"), binding(secret, parameters))
            row[name] = ciphertext if secret in FERNET_COLUMNS else ciphertext.decode("ascii")
    return row


def digests(table: str, row: Mapping[str, Any]) -> str | None:
    """Return the :func:`digest` of each ciphertext in a row, for the audit log; None without one.

    They are separated by spaces.
    """
    parts = [
        digest(table, name, value)
        for name in _OF_TABLE.get(table, ())
        if (value := row.get(name)) is not None
    ]
    return " ".join(parts) or None


def digest(table: str, column: str, value: object) -> str:
    """Return ``table.column=`` and the urlsafe base64 of the SHA-256 of a stored value."""
    raw = hashlib.sha256(as_bytes(value)).digest()
    return f"{table}.{column}={base64.urlsafe_b64encode(raw).decode('ascii').rstrip('=')}"


_ADD_IT: Final = "Add the key it was encrypted with to TOKEN_ENCRYPTION_KEY, after the newest"


class Reading:
    """Decrypts the secrets of the rows that a unit of work has read."""

    __slots__ = ("_access", "_connection", "_is_committed", "clock")

    def __init__(self, access: Access, connection: Connection, *, committed: bool = False) -> None:
        """Begin to read; ``committed`` if the transaction writes nothing that may be undone."""
        self._access = access
        self._connection = connection
        self._is_committed = committed
        self.clock = access.clock

    def secret(self, row: Row, secret: SecretColumn, of: str) -> Secret:
        """Return the plaintext of a column. The message of an error names ``of``.

        Raises:
            TokenStorageError: ``undecryptable`` if it was not encrypted for this row, with a
                key that was given; ``unreadable`` if the plaintext is not text.
        """
        name = f"{secret.table}.{secret.column} {of}"
        stored = getattr(row, secret.column)
        raw = as_bytes(stored)
        access, found = self._access, decoded(raw)
        is_fernet = secret in FERNET_COLUMNS
        if found is not None:
            associated = binding(secret, {name: getattr(row, name) for name in secret.bound})
            opened = access.keyring.opened_decoded(found, associated)
            if opened is None and self._is_unknown(raw) and access.read_keys_again():
                opened = access.keyring.opened_decoded(found, associated)
        else:
            opened = access.keyring.opened_fernet(raw) if is_fernet else None
        if opened is None:
            if not is_fernet and self._is_plain(raw):
                if self.accepts_old():
                    return stored if isinstance(stored, Secret) else Secret(stored)
                if not raw.startswith(PREFIX):
                    raise _too_old(name)
            raise self._not_opened(name, raw)
        key, plaintext = opened
        if found is not None:
            if self._is_committed:
                access.acceptance.end()
        elif not self.accepts_old(key.fingerprint):
            raise _too_old(name)
        try:
            return plaintext.decode()
        except UnicodeDecodeError:
            # Not as its cause: that has the plaintext.
            raise _not_text(name) from None

    def accepts_old(self, fingerprint: str | None = None) -> bool:
        """Return whether a value is accepted that a released version has stored."""
        access = self._access
        return access.acceptance.accepts(
            self._connection,
            access.keyring,
            access.require_primary,
            fingerprint,
            committed=self._is_committed,
        )

    def lookups(self, key: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the parameters with which a row is looked up, until it is found.

        An id of :func:`~.validation.stored_forms` is looked up by its hash. It is sent to the
        database, which may log it, only after that, and only while old values are accepted.
        """
        if "plain" not in key:
            yield key
            return
        yield {**key, "plain": key["hashed"]}
        if key["plain"] != key["hashed"] and self.accepts_old():
            # With the hash again: a rotation can have stored it in between.
            yield key

    def accepts_id(self, stored: str) -> bool:
        """Return whether a stored id is accepted: a hash, or what a released version stored."""
        return is_hashed(stored) or self.accepts_old()

    def _is_plain(self, raw: bytes) -> bool:
        """Return whether a text is not ours, in a column that released versions do not encrypt.

        The token of a provider can begin as ours, or have all of its form. It names no key of ours.
        """
        name = key_id(raw)
        return name is None or (
            self._is_unknown(raw)
            and all(key.id != name for key in key_registry.registered(self._connection))
        )

    def _is_unknown(self, raw: bytes) -> bool:
        name = key_id(raw)
        return name is not None and self._access.keyring.get(name) is None

    def _not_opened(self, name: str, raw: bytes) -> TokenStorageError:
        if not self._is_unknown(raw):
            return _not_opened(name, raw, "")
        known = key_registry.registered(self._connection)
        row = next((key for key in known if key.id == key_id(raw)), None)
        if row is not None and row.state == PRIMARY:
            # The given keys were verified at the start: this one was promoted afterwards.
            return _promoted(name, row.fingerprint)
        missing = f"with the id {key_id(raw)}" if row is None else row.fingerprint
        return _not_opened(name, raw, missing)


def _promoted(name: str, fingerprint: str) -> TokenStorageError:
    return KeyNotGivenError(
        f"{name} cannot be decrypted: key {fingerprint} encrypts this database since it was "
        "promoted, and this server does not have it. Nothing is lost.",
        code="undecryptable",
        remedy="Add it to the key file of this server, or to its TOKEN_ENCRYPTION_KEY and restart "
        "it.",
    )


def _not_opened(name: str, raw: bytes, missing: str) -> TokenStorageError:
    # Also one that was cut off: no Fernet token begins so.
    is_ours = raw.startswith(PREFIX)
    if missing:
        message = f"{name} is encrypted with key {missing}, which was not given."
    elif is_ours:
        message = f"{name} was changed, or was encrypted for another row."
    else:
        message = f"{name} cannot be decrypted with any of the given keys."
    again = "or delete the row and ask the user to consent again."
    if missing:
        return KeyNotGivenError(message, code="undecryptable", remedy=f"{_ADD_IT}, {again}")
    first = "Restore the row from a backup" if is_ours else _ADD_IT
    return TokenStorageError(message, code="undecryptable", remedy=f"{first}, {again}")


def _not_text(name: str) -> TokenStorageError:
    return TokenStorageError(
        f"{name} can be decrypted, but its plaintext is not text.",
        code="unreadable",
        remedy="Delete the row, or restore it from a backup.",
    )


def _too_old(name: str) -> TokenStorageError:
    return TokenStorageError(
        f"{name} is stored in the format of an older version, which is not accepted any more.",
        code="undecryptable",
        remedy="Delete the row and ask the user to consent again. If you have put it there from a "
        "backup, introduce its key again with --fernet (keys introduce), and rotate the keys.",
    )
