"""Find the structure at each revision by running the migrations in an empty database."""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.backends.base import Transaction
from nextcloud_mcp_server.backends.connect import empty_database
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import postgresql_structures
from nextcloud_mcp_server.migrate.alembic_commands import LINT, downgrade, unloadable, upgrade
from nextcloud_mcp_server.schema.history import (
    BASE,
    STRUCTURE_FILE,
    STRUCTURE_FILES,
    History,
    dump_structures,
    load_history,
)
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Structure


def complete(history: History) -> History:
    """Add the structures of revisions that are missing in the generated file.

    So a new migration can run at once; the file is generated before it is committed.
    """
    made = structures(history)
    return History(history.directory, history.revisions, made, history.engine)


def structures(history: History) -> dict[str, Structure]:
    """Return the structure at each revision, by running the migrations in an empty database."""
    with empty_database() as transaction:
        found = _up(transaction, history)
    return on_engine(history, history.engine, found)


def on_engine(history: History, engine: str, found: dict[str, Structure]) -> dict[str, Structure]:
    """Return the structures on an engine, from those ``found`` on SQLite."""
    return found if engine == "sqlite" else postgresql_structures.structures(history, found)


def up_and_down(history: History) -> tuple[dict[str, Structure] | None, TokenStorageError | None]:
    """Run every revision in an empty database, then undo every one.

    Returns:
        The structure at each revision, None if an upgrade fails; and the error if one fails.
    """
    left = list(history.revisions)
    with empty_database() as transaction:
        try:
            found = _up(transaction, history)
        except TokenStorageError as error:
            return None, error
        try:
            downgrade(transaction.connection, history, BASE, left.pop)
        except Exception as error:  # noqa: BLE001 - a new file may raise anything
            failure = _fails(error, history, left[-1])
            failure.__cause__ = error
            return found, failure
    return found, None


def _up(transaction: Transaction, history: History) -> dict[str, Structure]:
    found: dict[str, Structure] = {}

    def applied() -> None:
        found[history.revisions[len(found)]] = _without_version_table(transaction.structure())

    try:
        upgrade(transaction.connection, history, history.head, applied)
    except TokenStorageError:
        raise
    except Exception as error:
        if not found:
            raise _not_linear(unloadable(history) or _text(error)) from error
        raise _fails(error, history, history.revisions[len(found)]) from error
    if unreached := history.revisions[len(found) :]:
        raise _not_linear(f"{unreached[0]} is not reached")
    return found


def _text(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error) or type(error).__name__


def _not_linear(why: str) -> TokenStorageError:
    return TokenStorageError(
        f"The revision history is not linear: {' '.join(why.split())}.",
        code="migration-failed",
        remedy=LINT,
    )


def _fails(error: Exception, history: History, revision: str) -> TokenStorageError:
    return TokenStorageError(
        f"Revision {revision} fails in an empty database: {' '.join(_text(error).split())}.",
        code="migration-failed",
        remedy=f"Correct it in {history.directory / 'versions'}; no database was changed.",
    )


def _without_version_table(structure: Structure) -> Structure:
    own = {name for name in structure.tables if name.startswith("sqlite_")}
    return structure.without(own | {VERSION_TABLE})._replace(others=frozenset())


def write_structures(history: History | None = None) -> Path:
    """Generate the file of each engine from the migrations, and return the path of SQLite's."""
    history = history or load_history()
    with empty_database() as transaction:
        found = _up(transaction, history)
    for engine, name in STRUCTURE_FILES.items():
        made = dump_structures(on_engine(history, engine, found))
        (history.directory / name).write_text(made, "utf-8")
    load_history.cache_clear()
    return history.directory / STRUCTURE_FILE
