"""Read the encrypted values that a database stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from nextcloud_mcp_server.backends.sqlite.catalog import quoted
from nextcloud_mcp_server.schema.structure import Structure


def columns_there(structure: Structure, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those of the ``wanted`` (table, column) that a database has."""
    tables = structure.tables
    return [(t, c) for t, c in wanted if t in tables and c in tables[t].columns]


def read_secrets(
    connection: sqlite3.Connection,
    columns: Iterable[tuple[str, str]],
    limit: int | None = None,
    *,
    newest: bool = False,
) -> Iterator[tuple[str, bytes]]:
    """Yield (table, value) of each existing (table, column), up to ``limit`` of each."""
    most = -1 if limit is None else limit
    order = "ORDER BY rowid DESC " if newest else ""
    for table, column in columns:
        name = quoted(column)
        query = f"SELECT {name} FROM {quoted(table)} WHERE {name} IS NOT NULL {order}LIMIT {most}"  # noqa: S608 - our own names
        for (value,) in connection.execute(query):
            raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
            yield table, raw
