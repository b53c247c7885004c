"""The structure at each revision, by running the migrations in an empty database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import StaticPool, create_engine

from nextcloud_mcp_server.backends.sqlite.catalog import read_structure
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.history import STRUCTURE_FILE, History, dump_structures, load_history
from nextcloud_mcp_server.revisions import LINT, upgrade
from nextcloud_mcp_server.structure import VERSION_TABLE, Structure


def complete(history: History) -> History:
    """Find the structure of revisions that ``structure.json`` does not know yet.

    A developer who has just written a migration can run it at once; the file is
    generated before it is committed.
    """
    if not history.unknown_structures:
        return history
    return history.with_structures(structures(history))


def structures(history: History) -> dict[str, Structure]:
    """The structure at each revision, by running the migrations in an empty database."""
    found: dict[str, Structure] = {}
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)

        def applied() -> None:
            structure = _without_version_table(read_structure(raw.execute))
            found[history.revisions[len(found)]] = structure

        with engine.connect() as connection, connection.begin():
            raw.execute("BEGIN")
            try:
                upgrade(connection, history, history.head, applied)
            except TokenStorageError:
                raise
            except Exception as error:
                # Whatever a developer's new file does, it is told by its revision.
                text = str(getattr(error, "orig", None) or error) or type(error).__name__
                if not found:
                    raise _no_line(text) from error
                raise _fails(text, history, history.revisions[len(found)]) from error
    if unreached := history.revisions[len(found) :]:
        raise _no_line(f"{unreached[0]} is not reached")
    return found


def _no_line(why: str) -> TokenStorageError:
    return TokenStorageError(
        f"The revisions are not one line: {' '.join(why.split())}.",
        code="migration-failed",
        remedy=LINT,
    )


def _fails(text: str, history: History, revision: str) -> TokenStorageError:
    return TokenStorageError(
        f"Revision {revision} fails in an empty database: {' '.join(text.split())}.",
        code="migration-failed",
        remedy=f"Mend it in {history.directory / 'versions'}; no database was touched.",
    )


def _without_version_table(structure: Structure) -> Structure:
    tables = {
        name: table
        for name, table in structure.tables.items()
        if name != VERSION_TABLE and not name.startswith("sqlite_")
    }
    return Structure(tables, structure.indexes, structure.owners)


def write_structures(history: History | None = None) -> Path:
    """Generate ``structure.json`` anew from the migrations, and return its path."""
    history = history or load_history()
    path = history.directory / STRUCTURE_FILE
    path.write_text(dump_structures(structures(history)), "utf-8")
    load_history.cache_clear()
    return path
