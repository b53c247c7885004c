"""Checks of the content of the file: journal, pages, references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nextcloud_mcp_server.backends.sqlite import wal
from nextcloud_mcp_server.backends.sqlite.connect import is_still, require_library
from nextcloud_mcp_server.backends.sqlite.inspect import WAL, is_remote
from nextcloud_mcp_server.backends.sqlite.integrity import broken_references
from nextcloud_mcp_server.backends.sqlite.open_files import wal_size
from nextcloud_mcp_server.errors import counted
from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.filesystem.space import readable
from nextcloud_mcp_server.maintenance.doctor.context import Context
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level

#: Bytes of a write-ahead log that was not written back for a long time.
_LONG_WAL: Final = 64 * 1024 * 1024


def library(context: Context) -> Iterator[Finding]:
    """Tell which SQLite is used. This program loses no commit with any that it supports."""
    require_library()
    yield Finding(Level.OK, wal.library())


def journal(context: Context) -> Iterator[Finding]:
    """Check that the journal mode loses no write, and that no journal is left over."""
    contents = context.contents
    if contents is None or not contents.readable or context.is_foreign:
        return
    if contents.crashed:
        what = "a crashed writer left a journal; a start rolls it back before it reads anything"
        yield context.repairable(Level.WARNING, what)
        return
    size = wal_size(context.path)
    if size > _LONG_WAL:
        what = (
            f"its -wal has grown to {readable(size)}, because a program reads an old state of the "
            "database; stop that program, and a running server cuts it"
        )
        yield Finding(Level.NOTE, what)
    mode = contents.seen.journal_mode
    wanted = "delete" if is_remote(context.path) else WAL
    if is_still(contents.source):
        # Only a database in WAL mode lacks shared memory, and SQLite does not report its mode.
        mode = WAL
    if mode == wanted or permissions.unwritable(context.path):
        length = f", and its -wal has {readable(size)}" if size else ""
        yield Finding(Level.OK, f"its mode is {mode}{length}")
    else:
        yield context.repairable(Level.NOTE, f"its mode is {mode}; a start makes it {wanted}")


def integrity(context: Context) -> Iterator[Finding]:
    """Check that SQLite finds every page intact, and with ``--full`` every index entry."""
    contents = context.contents
    if contents is None or not contents.readable:
        if contents is not None and contents.seen.damage and not contents.seen.companion:
            yield context.restorable(contents.seen.detail)
        return
    what = "; ".join(context.checked.damage[:3])
    for table in context.checked.unchecked:
        yield Finding(Level.UNKNOWN, f"not checked: {table}")
    if not what:
        yield Finding(Level.OK, f"{context.pragma} finds no damage")
    elif context.only_indexes:
        what = f"an index is damaged and its table is intact: {what}"
        yield context.repairable(Level.ERROR, what)
    else:
        yield context.restorable(what)


def references(context: Context) -> Iterator[Finding]:
    """Check that every reference points at an existing row."""
    contents = context.contents
    if contents is None or not contents.readable or context.rows_unread:
        return
    with contents.reader() as connection:
        found = broken_references(connection.execute)
    # An operator's own table can reference columns that are not unique.
    for (message,) in sorted(row for row in found if len(row) == 1):
        yield Finding(Level.NOTE, str(message))
    broken = [row for row in found if len(row) > 1]
    if not found:
        yield Finding(Level.OK, "every reference points at a row")
        return
    if not broken:
        return
    tables = ", ".join(sorted({str(row[0]) for row in broken}))
    what = f"{counted(len(broken), 'reference')} of {tables} to rows that do not exist"
    yield Finding(Level.WARNING, what)
