"""The journal of migrations: a row for each change of the schema, committed with the change.

The row is written in the transaction of the change: there is no change without its row, and
no row of a change that was rolled back. Below revision 101 there is no such table, and
nothing is written.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.backends.base import Database, Transaction
from nextcloud_mcp_server.errors import legible
from nextcloud_mcp_server.schema.structure import JOURNAL_TABLE, Structure

logger = logging.getLogger(__name__)

TABLE: Final = JOURNAL_TABLE

#: Seconds by which two clocks can differ.
_SKEW: Final = 86400

#: The column of each field of :class:`Entry`.
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

#: Executes one statement with named parameters: that of a transaction, or of sqlite3.
Run = Callable[[str, dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of the schema.

    Attributes:
        happened_at: the time before its commit, in Unix seconds.
        action: ``create``, ``stamp``, ``upgrade``, ``mend``, ``downgrade`` or another word.
        before: the revision recorded before; None for none.
        after: the revision recorded since; None for none.
        seconds: the duration until then, the backup included.
        program_version: of the program that did it.
        host: the machine that it ran on.
        backup: the name of the backup made before; None if there was nothing to keep.
        note: what was repaired; None if nothing was.
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


def record(
    run: Run,
    action: str,
    before: str | None,
    after: str | None,
    *,
    begun: float,
    backup: Path | None = None,
    note: str = "",
) -> None:
    """Write the entry of a change inside its transaction, just before the commit.

    ``begun`` is by ``time.monotonic()``; the others are as in :class:`Entry`.
    """
    made = Entry(
        happened_at=int(time.time()),
        action=action,
        before=before,
        after=after,
        seconds=round(time.monotonic() - begun, 6),
        program_version=__version__,
        host=socket.gethostname(),
        backup=_storable(backup.name) if backup else None,
        note=_storable(note) if note else None,
    )
    run(_INSERT, dict(zip(_COLUMNS, astuple(made), strict=True)))


def warn_of_clock(transaction: Transaction, database: Database) -> None:
    """Log a warning if the newest entry of ``database`` has a later time than the clock."""
    rows = transaction.execute(f"SELECT happened_at FROM {TABLE} ORDER BY id DESC LIMIT 1")  # noqa: S608 - a constant
    newest = rows[0][0] if rows else None
    if isinstance(newest, int) and newest > time.time() + _SKEW:
        logger.warning(
            "The clock is wrong, or was: it is earlier than the newest entry of the journal. "
            "Correct it, because tokens expire by it. To see the entries: nextcloud-mcp-server db "
            "log %s",
            database.option,
        )


def _storable(name: str) -> str:
    """Return the name of a file, or a text with one, as text, even if its bytes are not text."""
    return legible(name).encode("utf-8", "backslashreplace").decode("utf-8")


def is_kept(structure: Structure) -> bool:
    """Return whether a database of this structure has a journal."""
    table = structure.tables.get(TABLE)
    return table is not None and has_columns(table.columns.keys())


def has_columns(there: Set[str]) -> bool:
    """Return whether a table with these columns is the journal."""
    return {"id", *_COLUMNS} <= there


def read(database: Database, limit: int | None = None) -> list[Entry] | None:
    """Return the newest ``limit`` entries (None: all), newest first; None without a journal.

    Raises:
        TokenStorageError: the database cannot be read, or is no database.
    """
    rows = database.newest(TABLE, _COLUMNS, limit)
    return None if rows is None else [_entry(row) for row in rows]


def _entry(row: Sequence[Any]) -> Entry:
    """Convert a row, even if somebody has written it by hand."""
    at, action, before, after, seconds, version, host, backup, note = row
    return Entry(
        happened_at=at if isinstance(at, int) else None,
        action=str(action),
        before=_text(before),
        after=_text(after),
        seconds=_finite(seconds),
        program_version=str(version),
        host=str(host),
        backup=_text(backup),
        note=_text(note),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _finite(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
