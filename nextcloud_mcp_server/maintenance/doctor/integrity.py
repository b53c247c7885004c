"""Checks of the file's inside: journal, pages, references."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only, is_still
from nextcloud_mcp_server.backends.sqlite.inspect import WAL
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.filesystem import mounts, permissions
from nextcloud_mcp_server.filesystem.space import readable
from nextcloud_mcp_server.maintenance.backups import newest_good
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.subject import Opened, Subject
from nextcloud_mcp_server.maintenance.indexes import damage, only_indexes

#: A write-ahead log above this was not written back for a long time.
_LONG_WAL: Final = 256 * 1024 * 1024

#: Complaints of SQLite that are repeated.
_MOST: Final = 3


def journal(subject: Subject) -> Iterator[Finding]:
    """Whether the journal is the one that loses no acknowledged write, and none is left over."""
    name, opened = "journal", subject.opened
    if opened is None or not opened.readable:
        return
    if opened.crashed:
        what = "a crashed writer left a journal; a start rolls it back before anybody reads"
        yield Finding(name, Level.WARNING, what, subject.command("repair"), mendable=True)
        return
    wal = Path(f"{subject.path}-wal")
    if wal.exists() and wal.stat().st_size > _LONG_WAL:
        what = f"its -wal has grown to {readable(wal.stat().st_size)}; a clean stop writes it back"
        yield Finding(name, Level.NOTE, what)
    mode = opened.seen.journal_mode
    wanted = "delete" if mounts.on_network(subject.path) else WAL
    if is_still(opened.source):
        # Only one in WAL mode asks for what is not there; without it SQLite does not say so.
        mode = WAL
    if mode == wanted or permissions.unwritable(subject.path):
        yield Finding(name, Level.OK, f"its mode is {mode}")
    else:
        what = f"its mode is {mode}; a start makes it {wanted}"
        yield Finding(name, Level.NOTE, what, subject.command("repair"), mendable=True)


def integrity(subject: Subject) -> Iterator[Finding]:
    """Whether SQLite finds every page whole (``--full``: and every index entry)."""
    name, opened = "integrity", subject.opened
    if opened is None or not opened.seen.journal_mode:
        if opened is not None and opened.seen.damage:
            yield Finding(name, Level.ERROR, opened.seen.detail, restore_command(subject))
        return
    pragma = "integrity_check" if subject.full else "quick_check"
    complaints = damage(opened.source, pragma)
    if not complaints:
        yield Finding(name, Level.OK, f"{pragma} finds nothing")
    elif only_indexes(opened.source):
        what = f"an index is damaged and its table is whole: {'; '.join(complaints[:_MOST])}"
        yield Finding(name, Level.ERROR, what, subject.command("repair"), mendable=True)
    else:
        what = "; ".join(complaints[:_MOST])
        yield Finding(name, Level.ERROR, what, restore_command(subject))


def restore_command(subject: Subject) -> str | None:
    """The command that puts the newest good backup in place; None where there is none."""
    try:
        newest_good(subject.path)
    except TokenStorageError:
        return None
    return subject.command("restore --newest")


def references(subject: Subject) -> Iterator[Finding]:
    """Whether every row points at a row that is there."""
    name, opened = "foreign keys", subject.opened
    if opened is None or not opened.readable:
        return
    yield _references(name, opened)


def _references(name: str, opened: Opened) -> Finding:
    try:
        with closing(connect_read_only(opened.source)) as connection:
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    except sqlite3.OperationalError as error:
        # An operator's own table may reference what is not unique.
        if "foreign key mismatch" not in str(error):
            raise
        return Finding(name, Level.NOTE, str(error))
    if not broken:
        return Finding(name, Level.OK, "every reference points at a row")
    tables = ", ".join(sorted({str(row[0]) for row in broken}))
    what = f"{counted(len(broken), 'reference')} of {tables} to rows that are gone"
    return Finding(name, Level.WARNING, what)
