"""The rows of an operator's tables that reference a table which is to be dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.reference import Reference
from nextcloud_mcp_server.schema.structure import Structure


def may_reference(there: Structure, history: History) -> list[str]:
    """Return the tables of an operator that can have a foreign key."""
    return [
        name
        for name in sorted(there.tables.keys() - history.shapes.keys())
        if "references" in there.tables[name].sql.lower()
    ]


def referring(found: Sequence[Reference]) -> str:
    """Return which rows name the dropped table, and where."""
    return " and ".join(
        f"{counted(key.rows, 'row')} of {key.table} still name in {', '.join(key.columns)}"
        for key in found
    )


def keeping(found: Sequence[Reference], database: Database) -> str:
    """Return the command that keeps those rows in tables without a foreign key."""
    kept = " ".join(
        f'CREATE TABLE "{name}_kept" AS SELECT * FROM "{name}"; DROP TABLE "{name}";'  # noqa: S608 - for a person
        for name in dict.fromkeys(key.table for key in found)
    )
    return f"sqlite3 {for_shell(str(database))} {for_shell(kept)}"


def refusal(
    found: Sequence[Reference], dropped: Mapping[str, str], database: Database, what: str
) -> TokenStorageError:
    """Return the error for rows that would reference nothing.

    Args:
        found: the foreign keys with such rows.
        dropped: the tables that are dropped, each with the revision.
        database: the database.
        what: what cannot be done.
    """
    tables = "; ".join(
        f"revision {dropped[key.referenced]} drops {key.referenced}, which {referring([key])}"
        for key in found
    )
    return TokenStorageError(
        f"{database} cannot {what}: {tables}; nothing was changed.",
        code="migration-failed",
        remedy="Remove that foreign key, or keep the rows in a table without it, then try again: "
        f"{keeping(found, database)}",
    )
