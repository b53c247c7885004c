"""Read the encrypted values that a database stores, and its registered keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from nextcloud_mcp_server.backends.keys import RegisteredKey, has_keys, registered_keys
from nextcloud_mcp_server.schema.structure import KEYS, Structure, quoted
from nextcloud_mcp_server.secret import SecretBytes


def read_secrets(
    connection: sqlite3.Connection,
    columns: Iterable[tuple[str, str]],
    limit: int | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield (table, value) of each existing (table, column), up to ``limit`` of each."""
    for table, column in columns:
        query = _query(table, column, -1 if limit is None else limit)
        for value in map(_raw, connection.execute(query)):
            yield table, value


def first_and_newest(
    connection: sqlite3.Connection, columns: Sequence[tuple[str, str]]
) -> tuple[bytes, ...]:
    """Return the first encrypted value, and the newest one of each existing (table, column).

    In one statement, because a start at head waits for it.
    """
    # A column without a newest one has none at all.
    newest = [f"SELECT * FROM ({_query(*one, 1, 'ORDER BY rowid DESC')})" for one in columns]  # noqa: S608 - our own names
    values = list(map(_raw, connection.execute(" UNION ALL ".join(newest))))
    first = next(read_secrets(connection, columns, 1), None) if values else None
    return tuple(dict.fromkeys([*([first[1]] if first else []), *values]))


def read_keys(connection: sqlite3.Connection, structure: Structure) -> tuple[RegisteredKey, ...]:
    """Return the registered keys; none if they cannot be read."""
    if not has_keys(structure):
        return ()
    with suppress(sqlite3.Error, UnicodeDecodeError):
        return tuple(RegisteredKey.of(row) for row in connection.execute(registered_keys(KEYS)))
    return ()


def _query(table: str, column: str, limit: int, order: str = "") -> str:
    name = quoted(column)
    # An index of somebody else can need its own program.
    place = f"{quoted(table)} NOT INDEXED"
    return f"SELECT {name} FROM {place} WHERE {name} IS NOT NULL {order} LIMIT {limit}"  # noqa: S608 - our own names


def _raw(row: Sequence[object]) -> SecretBytes:
    """Return the bytes of a value, hidden: an id of a released version is not encrypted."""
    [value] = row
    return SecretBytes(value if isinstance(value, bytes) else str(value).encode("utf-8", "replace"))
