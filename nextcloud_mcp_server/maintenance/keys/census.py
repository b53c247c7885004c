"""Count the secrets of a database by key and table, and list those that are not opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.keyfile import find_keyring
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import FERNET, PRIMARY, V2
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.keys.reader import Stored, reading
from nextcloud_mcp_server.maintenance.keys.values import PLAIN, Value, row_name, values_of
from nextcloud_mcp_server.migrate.classify import TEMPORARY
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.settings import Settings


class Unopened(NamedTuple):
    """A value that is not opened: where it is, and why."""

    table: str
    column: str
    row: str
    reason: str


class KnownKey(NamedTuple):
    """A key that is registered, or given, or named by a stored text.

    Attributes:
        id: the id of a v2 key, the fingerprint of one for Fernet.
        fingerprint: its name for people; the id of a key that is neither registered nor given.
        kind: ``v2`` or ``fernet``.
        state: its state; None if it is not registered.
        given: whether it was given.
        created_at: when it was registered, in seconds since 1970.
    """

    id: str
    fingerprint: str
    kind: str
    state: str | None
    given: bool
    created_at: int | None


@dataclass(frozen=True, slots=True)
class Census:
    """The number of secrets by key and table.

    Attributes:
        database: where it was taken.
        exists: whether there is a database.
        keys: every key, the oldest registration first.
        given: the fingerprints of the given keys, newest first; empty without a key.
        secrets: the number of secrets by (kind, id of the key, table), also of keys that were not
            given.
        plain: the number of values in plain text, by (table, column).
        pending: the number of values that a rotation encrypts with the primary key, or hashes, by
            table.
        unopened: the values that are not opened.
    """

    database: Path | ServerUrl
    exists: bool
    keys: tuple[KnownKey, ...]
    given: tuple[str, ...]
    secrets: Mapping[tuple[str, str, str], int]
    plain: Mapping[tuple[str, str], int]
    pending: Mapping[str, int]
    unopened: tuple[Unopened, ...]

    def by_table(self, key: KnownKey) -> dict[str, int]:
        """Return the number of secrets that need ``key``, by table."""
        return {
            table: number
            for (kind, name, table), number in self.secrets.items()
            if (kind, name) == (key.kind, key.id)
        }

    @property
    def primary(self) -> KnownKey | None:
        """The key that encrypts; None if none is registered."""
        return next((key for key in self.keys if key.state == PRIMARY), None)


def count_secrets(settings: Settings, report: Reporter = silent) -> Census:
    """Count the secrets by key and table. Changes nothing.

    Raises:
        TokenStorageError: ``malformed-key`` or ``key-missing`` for a key that cannot be read;
            the state's own code for a file without a table of secrets.
    """
    database = connect(settings.database)
    database.check()
    return take_census(database, find_keyring(settings, database.location), report)


def take_census(
    database: Database, keyring: Keyring | None, report: Reporter, *, usable: bool = True
) -> Census:
    """Count the secrets of ``database`` by the keys of ``keyring``; see :func:`count_secrets`.

    With ``usable`` False also those of a database that a start refuses, if it can be read.
    """
    seen = database.inspect(samples=True)
    inspection = Inspection.of(database, seen)
    refusal, exists = inspection.refusal, inspection.exists
    count = _Count(keyring, seen.keys)
    if exists:
        with reading(database, seen.structure, inspection.finding.adopted) as reader:
            if usable and refusal is not None and not reader.tables:
                raise refusal
            if usable and reader.tables:
                inspection.require_usable()
            total, done = reader.total(), 0
            for table in reader.tables:
                for page in reader.pages(table):
                    for stored in page:
                        count.add(table.removeprefix(TEMPORARY), stored)
                    done += len(page)
                    report("counting the secrets", min(done, total), total, "rows")
    elif usable and refusal is not None:
        raise refusal
    return Census(
        database.location,
        exists,
        tuple(_keys(keyring, seen.keys, count.secrets)),
        () if keyring is None else keyring.fingerprints,
        dict(count.secrets),
        dict(count.plain),
        dict(count.pending),
        tuple(count.unopened),
    )


def primary_id(known: Sequence[RegisteredKey], keyring: Keyring | None) -> str:
    """Return the id of the key that encrypts, or of the one that the first secret registers."""
    for row in known:
        if row.state == PRIMARY:
            return row.id
    return "" if keyring is None else keyring.keys[0].id


def needs_rotation(value: Value, primary: str) -> bool:
    """Return whether a rotation writes a value again: it is opened, and not with ``primary``."""
    return value.plaintext is not None and not (value.kind == V2 and value.key == primary)


@dataclass(slots=True)
class _Count:
    """What has been counted so far; see :class:`Census`."""

    keyring: Keyring | None
    known: Sequence[RegisteredKey]
    secrets: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    plain: Counter[tuple[str, str]] = field(default_factory=Counter)
    pending: Counter[str] = field(default_factory=Counter)
    unopened: list[Unopened] = field(default_factory=list)

    def add(self, table: str, stored: Stored) -> None:
        """Count the values of a row."""
        primary = primary_id(self.known, self.keyring)
        for value in values_of(table, stored.row, self.keyring, self.known):
            if value.kind == PLAIN:
                self.plain[table, value.column] += 1
            elif value.key:
                self.secrets[value.kind, value.key, table] += 1
            if value.reason:
                name = row_name(table, stored.row, stored.at)
                self.unopened.append(Unopened(table, value.column, name, value.reason))
            self.pending[table] += needs_rotation(value, primary)


def _keys(
    keyring: Keyring | None,
    known: Sequence[RegisteredKey],
    secrets: Mapping[tuple[str, str, str], int],
) -> dict[KnownKey, None]:
    """Return every key: those that are registered, then those that were given, then others."""
    given = () if keyring is None else keyring.keys
    names = {key.id: key.fingerprint for key in given}
    found: dict[tuple[str, str], KnownKey] = {}
    for row in known:
        there = row.fingerprint in names.values()
        found[row.kind, row.id] = KnownKey(
            row.id, row.fingerprint, row.kind, row.state, there, row.created_at
        )
    for key in given:
        found.setdefault((V2, key.id), KnownKey(key.id, key.fingerprint, V2, None, True, None))
    for kind, name, _ in secrets:
        fingerprint = names.get(name, name)
        unknown = KnownKey(name, fingerprint, kind, None, kind == FERNET, None)
        found.setdefault((kind, name), unknown)
    return dict.fromkeys(found.values())
