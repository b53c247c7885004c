"""The structure at each revision, by running the migrations in an empty database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.backends.base import Transaction
from nextcloud_mcp_server.backends.connect import empty_database
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.alembic_commands import LINT, downgrade, unloadable, upgrade
from nextcloud_mcp_server.schema.history import (
    BASE,
    STRUCTURE_FILE,
    History,
    dump_structures,
    load_history,
)
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Structure


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
    with empty_database() as transaction:
        return _up(transaction, history)


@dataclass(frozen=True, slots=True)
class Trial:
    """The way up an empty database, and back.

    Attributes:
        up: the structure after each revision was run, oldest first.
        down: the structure after each was undone, newest first, as far as they could be.
        failure: why the next one could not be undone; None where all could.
    """

    up: Mapping[str, Structure]
    down: Mapping[str, Structure]
    failure: TokenStorageError | None = None


def there_and_back(history: History) -> Trial:
    """Run every revision in an empty database, then undo every one.

    Raises:
        TokenStorageError: ``migration-failed`` where one cannot be run.
    """
    down: dict[str, Structure] = {}
    failure = None
    with empty_database() as transaction:
        up = _up(transaction, history)

        def undone() -> None:
            down[history.revisions[-1 - len(down)]] = _without_version_table(
                transaction.structure()
            )

        try:
            downgrade(transaction.connection, history, BASE, undone)
        except Exception as error:  # noqa: BLE001 - whatever a developer's file does is told
            failure = _fails(_text(error), history, history.revisions[-1 - len(down)])
            failure.__cause__ = error
    return Trial(up, down, failure)


def _up(transaction: Transaction, history: History) -> dict[str, Structure]:
    found: dict[str, Structure] = {}

    def applied() -> None:
        found[history.revisions[len(found)]] = _without_version_table(transaction.structure())

    try:
        upgrade(transaction.connection, history, history.head, applied)
    except TokenStorageError:
        raise
    except Exception as error:
        # Whatever a developer's new file does, it is told by its revision.
        if not found:
            raise _no_line(unloadable(history) or _text(error)) from error
        raise _fails(_text(error), history, history.revisions[len(found)]) from error
    if unreached := history.revisions[len(found) :]:
        raise _no_line(f"{unreached[0]} is not reached")
    return found


def _text(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error) or type(error).__name__


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
