"""The journal of migrations: a row for each change of the schema, committed with the change.

Whoever changes the schema writes the row in the transaction of the change: there is no
change without its row, and no row of a change that was rolled back. Where the table is not
there afterwards (revisions below 101), nothing is written.
"""

from __future__ import annotations

import math
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.backends.sqlite.catalog import read_structure
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import HotJournalError, look, recovered_copy
from nextcloud_mcp_server.schema.structure import Structure

TABLE: Final = "migration_journal"

_COLUMNS: Final = (
    "happened_at",
    "action",
    "from_revision",
    "to_revision",
    "seconds",
    "program_version",
    "host",
    "backup",
    "note",
)

_INSERT: Final = (
    f"INSERT INTO {TABLE} ({', '.join(_COLUMNS)}) "  # noqa: S608 - constants
    f"VALUES ({', '.join(':' + column for column in _COLUMNS)})"
)

_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM {TABLE} ORDER BY id DESC LIMIT ?"  # noqa: S608

#: Executes one statement with named parameters: ``sqlite3.Connection.execute`` does, and on
#: SQLite SQLAlchemy's ``Connection.exec_driver_sql``.
Run = Callable[[str, dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of the schema.

    Attributes:
        happened_at: when it was about to be committed, in Unix seconds.
        action: ``create``, ``stamp``, ``upgrade``, ``mend``, ``downgrade`` or another's word.
        before: the revision recorded before; None for none.
        after: the revision recorded since; None for none.
        seconds: how long it had taken by then, the backup included.
        program_version: of the program that did it.
        host: the machine that it ran on.
        backup: the name of the backup made before; None where there was nothing to keep.
        note: what was mended; None where nothing was.
    """

    happened_at: int | None
    action: str
    before: str | None
    after: str | None
    seconds: float | None
    program_version: str
    host: str
    backup: str | None = None
    note: str | None = None


def entry(
    action: str,
    before: str | None,
    after: str | None,
    *,
    begun: float,
    backup: Path | None = None,
    note: str = "",
) -> Entry:
    """What happens now, on this host and by this program.

    Args:
        action: what is done, in one word.
        before: the revision recorded before; None for none.
        after: the revision recorded from now on; None for none.
        begun: when it began, by ``time.monotonic()``.
        backup: the backup made before.
        note: what else is worth knowing.
    """
    return Entry(
        happened_at=int(time.time()),
        action=action,
        before=before,
        after=after,
        seconds=round(time.monotonic() - begun, 6),
        program_version=__version__,
        host=socket.gethostname(),
        backup=_storable(backup.name) if backup else None,
        note=note or None,
    )


def _storable(name: str) -> str:
    """A file's name as text: its bytes may be none."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def is_kept(structure: Structure) -> bool:
    """Whether a database of this structure keeps a journal."""
    table = structure.tables.get(TABLE)
    return table is not None and has_columns(table.columns.keys())


def has_columns(there: Set[str]) -> bool:
    """Whether a table of these columns is the journal."""
    return {"id", *_COLUMNS} <= there


def record(run: Run, made: Entry) -> None:
    """Write one entry, inside the transaction of what it tells of."""
    run(
        _INSERT,
        {
            "happened_at": made.happened_at,
            "action": made.action,
            "from_revision": made.before,
            "to_revision": made.after,
            "seconds": made.seconds,
            "program_version": made.program_version,
            "host": made.host,
            "backup": made.backup,
            "note": made.note,
        },
    )


def read(database: Path, limit: int | None = None) -> list[Entry] | None:
    """The newest ``limit`` entries (None: all), newest first; None where there is no journal.

    Nothing changes: what a crashed writer left is read in a recovered copy.

    Raises:
        TokenStorageError: the file cannot be read, or is no database.
    """
    try:
        look(database)
    except HotJournalError:
        with recovered_copy(database) as copy:
            return _read(copy, limit)
    return _read(database, limit)


def _read(database: Path, limit: int | None) -> list[Entry] | None:
    if not database.exists():
        return None
    with naming(database), closing(connect_read_only(database)) as connection:
        connection.execute("BEGIN")
        if not is_kept(read_structure(connection.execute)):
            return None
        connection.row_factory = sqlite3.Row
        rows = connection.execute(_SELECT, (-1 if limit is None else limit,)).fetchall()
    return [_entry(dict(row)) for row in rows]


def _entry(row: Mapping[str, Any]) -> Entry:
    """An entry, whatever somebody has written into the row by hand."""
    at = row["happened_at"]
    return Entry(
        happened_at=at if isinstance(at, int) else None,
        action=str(row["action"]),
        before=_text(row["from_revision"]),
        after=_text(row["to_revision"]),
        seconds=_finite(row["seconds"]),
        program_version=str(row["program_version"]),
        host=str(row["host"]),
        backup=_text(row["backup"]),
        note=_text(row["note"]),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _finite(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
