"""Take secrets back to the format of released versions: the downgrade of revision 103.

``alembic/guards.py`` reads and writes the rows, in the transaction of the downgrade.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server.crypto.binding import binding, is_hashed
from nextcloud_mcp_server.crypto.key import PREFIX, Key, is_v2, key_id
from nextcloud_mcp_server.crypto.keyring import Keyring, as_bytes
from nextcloud_mcp_server.crypto.registration import accepts_old
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.schema.secrets import HASHED, SECRETS, SecretColumn, secrets_of
from nextcloud_mcp_server.secret import SecretDict

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import Database
    from nextcloud_mcp_server.backends.keys import RegisteredKey

#: The column that identifies a row of the tables with hashed ids.
_ID: Final = "session_id"


class Decryption:
    """Decrypts the second format, and encrypts what released versions encrypt with Fernet.

    A key is needed only if there is something to decrypt.

    Args:
        database: what is downgraded; None if it has no name.
        keyring: returns the available keys, of which the first one encrypts; None without one.
        kept: the tables that are still there after the downgrade; None for all.

    Attributes:
        encrypted: how many secrets of each table were encrypted for released versions.
        deleted: how many rows of each table were deleted, because only the hash of an id is there.
    """

    def __init__(
        self,
        database: Database | None = None,
        keyring: Callable[[], Keyring | None] = lambda: None,
        kept: Iterable[str] | None = None,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._kept = None if kept is None else frozenset(kept)
        self.begin(())

    def begin(self, known: Sequence[RegisteredKey]) -> None:
        """Begin, or begin again, with the registered keys."""
        self._fingerprints = {row.id: row.fingerprint for row in known}
        self._accepts_plain = not known or accepts_old(known)
        self._found: Keyring | None = None
        self._missing: Counter[tuple[str, str]] = Counter()
        self._damaged: Counter[str] = Counter()
        self.encrypted: Counter[str] = Counter()
        self.deleted: Counter[str] = Counter()

    @property
    def key(self) -> str | None:
        """The fingerprint of the key that encrypts for released versions; None if not needed."""
        return self._found.fingerprints[0] if self._found and self.encrypted else None

    @property
    def hashed(self) -> dict[str, list[str]]:
        """The columns with hashed ids, by table."""
        tables = self._kept_of(table for table, _ in HASHED)
        return {table: [name for owner, name in HASHED if owner == table] for table in tables}

    @property
    def secrets(self) -> dict[str, tuple[list[str], list[str]]]:
        """The columns with secrets and the columns that they are bound to, by table."""
        found = {}
        for table in self._kept_of(secret.table for secret in SECRETS):
            columns = secrets_of(table)
            bound = dict.fromkeys(name for secret in columns.values() for name in secret.bound)
            found[table] = [*columns], [*bound]
        return found

    def _kept_of(self, tables: Iterable[str]) -> Iterator[str]:
        return (t for t in dict.fromkeys(tables) if self._kept is None or t in self._kept)

    def preview(self) -> None:
        """Count what will be done, and check that each key was given. Reads without a lock.

        Whether a secret was changed is known only in the downgrade. So are the secrets beside a
        hashed id, nearly all of which are deleted with it.

        Raises:
            TokenStorageError: as :meth:`require_all`.
        """
        database = self._database
        if database is None:
            raise AssertionError("only a database can be previewed")
        self.begin(database.inspect(samples=True).keys)
        for table in self.hashed:
            values = database.samples([(table, _ID)], None)
            self.deleted[table] = sum(is_hashed(v.decode("utf-8", "replace")) for v in values)
        for table in self.secrets.keys() - self.hashed.keys():
            for column, secret in secrets_of(table).items():
                for raw in database.samples([(table, column)], None):
                    if self._is_ours(secret, raw) and self._key_of(table, raw) is not None:
                        self.encrypted[table] += 1
        self.require_all()

    def released(self, table: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the secrets of a row as released versions store them.

        None if there is none, or if one cannot be decrypted, which :meth:`require_all` raises. A
        column that ``row`` lacks has no value.
        """
        columns = secrets_of(table)
        row = SecretDict(row)
        bound = SecretDict((n, row.get(n)) for secret in columns.values() for n in secret.bound)
        found = SecretDict(
            (name, raw)
            for name, secret in columns.items()
            if self._is_ours(secret, raw := as_bytes(row.get(name)))
        )
        changes: dict[str, Any] = {}
        for name, raw in found.items():
            if (key := self._key_of(table, raw)) is None:
                continue
            plaintext = key.open(raw, binding(columns[name], bound))
            if plaintext is None:
                self._damaged[table] += 1
            elif name.startswith("encrypted_"):
                changes[name] = self._ring.keys[0].encrypt_fernet(plaintext)
            else:
                # Released versions do not encrypt it.
                changes[name] = plaintext.decode("utf-8")
        if not found or len(changes) < len(found):
            return None
        self.encrypted[table] += len(changes)
        return changes

    def _is_ours(self, secret: SecretColumn, raw: bytes) -> bool:
        """Return whether a stored value is not as released versions store it.

        They encrypt with Fernet, and no text of that begins as ours, also if ours was cut off. In
        the other columns they store texts of others, which can have the form of ours.
        """
        if secret.column.startswith("encrypted_"):
            return raw.startswith(PREFIX)
        if (name := key_id(raw)) is None:
            return False
        if name in self._fingerprints or self._given(name) is not None:
            return True
        return is_v2(raw) and not self._accepts_plain

    def _key_of(self, table: str, raw: bytes) -> Key | None:
        """Return the key of a text of ours; None if there is none, and count it."""
        if (name := key_id(raw)) is None:
            self._damaged[table] += 1
            return None
        key = self._given(name)
        if key is None:
            self._missing[table, self._fingerprints.get(name, f"with the id {name}")] += 1
        return key

    def _given(self, name: str) -> Key | None:
        self._found = self._found or self._keyring()
        return None if self._found is None else self._found.get(name)

    @property
    def _ring(self) -> Keyring:
        if self._found is None:
            raise AssertionError("it was found before something was decrypted")
        return self._found

    def require_all(self) -> None:
        """Fail if a secret could not be decrypted.

        Raises:
            TokenStorageError: ``key-missing`` or ``wrong-key`` if a key was not given,
                ``undecryptable`` if a secret was changed or is in another row.
        """
        database = self._database or "the database"
        if self._missing:
            tables: Counter[str] = Counter()
            for (table, _), number in self._missing.items():
                tables[table] += number
            names = sorted({name for _, name in self._missing})
            raise TokenStorageError(
                f"To go back, {database} needs key {' and '.join(names)}, which was not given: "
                f"{_by_table(tables)} cannot be decrypted without it. Nothing was changed.",
                code="key-missing" if self._found is None else "wrong-key",
                remedy="Set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE to that key "
                "(several: NEWEST;OLDER), then run the command again.",
            )
        if self._damaged:
            option = "-d tokens.db" if self._database is None else self._database.option
            raise TokenStorageError(
                f"To go back, {database} has to be decrypted, and "
                f"{_by_table(self._damaged)} cannot be: they were changed, or were "
                "encrypted for another row. Nothing was changed.",
                code="undecryptable",
                remedy="Restore their rows from a backup, or delete them, then run the command "
                f"again. To see which they are: nextcloud-mcp-server db doctor {option}",
            )


def _by_table(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{counted(n, 'secret')} of {table}" for table, n in sorted(numbers.items()))
