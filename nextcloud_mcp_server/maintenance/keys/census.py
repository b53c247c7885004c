"""Count the secrets of a database by key and table, and list those that no key opens."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite.catalog import quoted
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.backends.sqlite.secrets import columns_there
from nextcloud_mcp_server.crypto.keyfile import find_keyring
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.migrate.classify import TEMPORARY
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.schema.structure import ENCRYPTED, Structure
from nextcloud_mcp_server.settings import Settings

#: The rows of one page of a column.
PAGE: Final = 500

#: Less than every rowid but one, which SQLite never chooses.
FIRST: Final = -(2**63)

#: The column that names a row to people.
_NAMES: Final = {"oauth_clients": "client_id"}


class Secret(NamedTuple):
    """One encrypted value: its row, the name of the row, and the value as it is stored."""

    at: int
    name: object
    value: bytes | str


class Unopened(NamedTuple):
    """A secret that no key opens."""

    table: str
    column: str
    row: str


@dataclass(frozen=True, slots=True)
class Census:
    """The number of secrets by fingerprint and table, and those that no key opens.

    ``keys`` are the fingerprints of the available keys, newest first; empty without a key.
    """

    database: Path
    exists: bool
    keys: tuple[str, ...]
    opened: Mapping[tuple[str, str], int]
    unopened: tuple[Unopened, ...]

    def by_table(self, key: str) -> dict[str, int]:
        """Return the number of secrets that ``key`` opens, by table."""
        return {table: number for (one, table), number in self.opened.items() if one == key}

    @property
    def older(self) -> dict[str, int]:
        """The number of secrets by key, for every key but the newest that opens any."""
        by_key = {key: sum(self.by_table(key).values()) for key in self.keys[1:]}
        return {key: number for key, number in by_key.items() if number}


def count_secrets(settings: Settings, report: Reporter = silent) -> Census:
    """Count the secrets by key and table. Changes nothing.

    Raises:
        TokenStorageError: ``malformed-key`` or ``key-missing`` for a key that cannot be read;
            the state's own code for a file without a table of secrets.
    """
    place = SqliteDatabase(settings.file)
    place.check()
    return take_census(place, find_keyring(settings, place.path), report)


def take_census(place: SqliteDatabase, keyring: Keyring | None, report: Reporter) -> Census:
    """Count the secrets of ``place`` by the keys of ``keyring``; see :func:`count_secrets`."""
    opened: Counter[tuple[str, str]] = Counter()
    unopened: list[Unopened] = []
    with readable(place.path) as (source, seen):
        inspection = Inspection.of(place, seen)
        # The next start renames the filled copy of an interrupted recreation back.
        copies = inspection.finding.adopted
        wanted = [(TEMPORARY + t if t in copies else t, column) for t, column in ENCRYPTED]
        columns = columns_there(seen.structure, wanted)
        refusal, exists = inspection.refusal, inspection.exists
        if refusal is not None and not columns:
            raise refusal
        if columns:
            inspection.require_usable()
            with naming(source), closing(connect_read_only(source)) as connection:
                total = count(connection, columns)
                for place_of, column in columns:
                    table = place_of.removeprefix(TEMPORARY)
                    for secret in _all(connection, seen.structure, place_of, column):
                        key = None if keyring is None else keyring.key_of(secret.value)
                        if key is None:
                            unopened.append(Unopened(table, column, _named(secret)))
                        else:
                            opened[key, table] += 1
                        done = opened.total() + len(unopened)
                        report("counting the secrets", done, total, "secrets")
    keys = () if keyring is None else tuple(dict.fromkeys(keyring.fingerprints))
    return Census(place.path, exists, keys, dict(opened), tuple(unopened))


def count(connection: sqlite3.Connection, columns: list[tuple[str, str]]) -> int:
    """Return the number of secrets in ``columns``."""
    numbers = (
        connection.execute(f"SELECT count({quoted(c)}) FROM {quoted(t)} NOT INDEXED").fetchone()[0]  # noqa: S608
        for t, c in columns
    )
    return sum(numbers)


def page(
    connection: sqlite3.Connection, structure: Structure, table: str, column: str, after: int
) -> list[Secret]:
    """Return the next :data:`PAGE` secrets of a column, by rowid, above ``after``.

    Each page is a transaction of its own: a long one would let the ``-wal`` grow.
    """
    name = _NAMES.get(table.removeprefix(TEMPORARY), "user_id")
    named = quoted(name) if name in structure.tables[table].columns else "NULL"
    secret = quoted(column)
    query = (
        f"SELECT rowid, {named}, {secret} FROM {quoted(table)} NOT INDEXED "  # noqa: S608
        f"WHERE rowid > ? AND {secret} IS NOT NULL ORDER BY rowid LIMIT {PAGE}"
    )
    return [
        Secret(at, name, value if isinstance(value, bytes) else str(value))
        for at, name, value in connection.execute(query, (after,)).fetchall()
    ]


def _all(
    connection: sqlite3.Connection, structure: Structure, table: str, column: str
) -> Iterator[Secret]:
    after = FIRST
    while secrets := page(connection, structure, table, column, after):
        yield from secrets
        after = secrets[-1].at


def _named(secret: Secret) -> str:
    # The key of a table of an early release can be NULL.
    return f"row {secret.at}" if secret.name is None else str(secret.name)
