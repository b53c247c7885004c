"""Checks of the files beside the database (backups, incomplete files, locks) and of the clock."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.backends.sqlite.backup_files import (
    described,
    find_backups,
    foreign,
    lost_rows,
    require_trusted,
)
from nextcloud_mcp_server.backends.sqlite.catalog import count, read_structure
from nextcloud_mcp_server.backends.sqlite.connect import connect_at_rest
from nextcloud_mcp_server.backends.sqlite.in_use import describe, is_held
from nextcloud_mcp_server.backends.sqlite.integrity import check_pages
from nextcloud_mcp_server.backends.sqlite.lock import (
    FOREIGN,
    LONGEST,
    holder,
    is_announcement,
    is_foreign,
)
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path, read_manifest, sha256_of
from nextcloud_mcp_server.crypto.keyfile import fingerprints
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell, moment
from nextcloud_mcp_server.filesystem.files import abandoned_files
from nextcloud_mcp_server.filesystem.flock import try_lock
from nextcloud_mcp_server.maintenance.doctor.context import Context
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.migrate.journal import TABLE, is_kept
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.schema.structure import ENCRYPTED, quoted

#: Days after which the newest backup is old.
_OLD: Final = 30

#: An earlier clock is wrong: this program did not exist then.
_TOO_EARLY: Final = datetime(2025, 1, 1, tzinfo=UTC).timestamp()

#: Seconds by which the clocks of two machines can differ.
_SKEW: Final = 300

#: Columns with the time of a row, in seconds since 1970.
_WRITTEN_AT: Final = (
    "created_at",
    "updated_at",
    "timestamp",
    "applied_at",
    "submitted_at",
    "happened_at",
)

_DAY: Final = 86400

#: Errors that are not about the content of a file.
_CLOSED: Final = frozenset({"read-only", "bad-path", "lock-timeout"})


def backups_of(database: Path) -> list[Path]:
    """Return every backup beside ``database``, automatic or not, oldest first."""
    try:
        return [one.path for one in find_backups(database)]
    except OSError:
        return []


def unlisted(folder: Path) -> str:
    """Return why the files in ``folder`` cannot be examined; empty if they can."""
    try:
        next(folder.iterdir(), None)
        # A user can have permission to list names, but not to examine the files.
        os.lstat(f"{folder}/.")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"its folder {folder} cannot be read ({error.strerror})"
    return ""


def backups(context: Context) -> Iterator[Finding]:
    """Check that there is an intact backup, how old it is, and of which database."""
    found = backups_of(context.path)
    if reason := unlisted(context.path.parent):
        yield Finding(Level.UNKNOWN, f"whether there are any is unknown: {reason}")
        return
    if not found:
        if context.is_foreign:
            return
        holds = context.contents is not None and context.contents.readable
        level = Level.NOTE if holds or context.unread else Level.OK
        what = "there is none yet; a migration makes one"
        yield Finding(level, what, context.command("backup") if holds else None)
        return
    for path in found if context.full else found[-1:]:
        level, what = _examine(path)
        if level is Level.UNKNOWN:
            yield Finding(level, f"whether {path.name} is intact is unknown: {what}")
        elif level is not Level.OK:
            yield Finding(level, f"{path.name} is not intact: {what}")
    if bare := [path for path in found if not manifest_path(path).exists()]:
        have, their = ("has", "its") if len(bare) == 1 else ("have", "their")
        what = f"{len(bare)} of {len(found)} {have} no manifest"
        yield Finding(Level.NOTE, f"{what}, so only {their} pages can be checked")
    yield from _locked_out(context, found)
    yield from _vanished(context)
    if what := _former(context, found[-1]):
        yield Finding(Level.ERROR, what, context.command("restore --newest"))
    elif gone := _emptied(context, found[-1]):
        what = f"{found[-1].name} holds {gone}, and the database none; were they deleted?"
        yield Finding(Level.WARNING, what, context.command("restore --newest"))
    days = int((time.time() - found[-1].stat().st_mtime) // _DAY)
    age = f"{counted(days, 'day')} old" if days > 0 else "less than a day old"
    which = "there is one," if len(found) == 1 else f"there are {len(found)}, the newest"
    what = f"{which} {age}: {found[-1].name}"
    if days > _OLD:
        yield Finding(Level.NOTE, what, context.command("backup"))
    else:
        yield Finding(Level.OK, what)


def _locked_out(context: Context, found: list[Path]) -> Iterator[Finding]:
    """Report the backups whose keys are not among the available ones, by their manifests."""
    available = fingerprints(context.settings)
    if not available:
        return
    closed = []
    for path in found:
        with suppress(OSError, ValueError):
            manifest = read_manifest(path)
            needed = manifest and any(manifest.rows.get(table) for table, _ in ENCRYPTED)
            if manifest and needed and manifest.keys and not {*manifest.keys} & {*available}:
                closed.append((path.name, manifest.keys[0]))
    if closed:
        name, key = closed[-1]
        what = f"{len(closed)} of {len(found)} were made with a key that is not available"
        what = f"{what}, {name} with {key}: keep that key as long as you keep the backup"
        yield Finding(Level.WARNING, what)


def _vanished(context: Context) -> Iterator[Finding]:
    """Report the missing tables that a backup has rows of."""
    contents = context.tables
    if contents is None:
        return
    missing = (contents.corrected or contents.finding).gaps.tables
    for path, rows in lost_rows(context.path, missing).items():
        what = f"{path.name} holds {described(rows)}, and the database has no such table"
        command = f"nextcloud-mcp-server db restore {for_shell(path)} {context.database.option}"
        yield Finding(Level.ERROR, what, command)


def _former(context: Context, newest: Path) -> str:
    """Return why the newest backup is of a database that is gone; empty if it is not."""
    contents = context.contents
    if contents is not None and contents.finding.state is State.NEW:
        return f"{context.path.name} has no table, and {newest.name} is a backup of it"
    if (contents := context.intact) is None or not is_kept(contents.seen.structure):
        return ""
    with contents.reader() as connection:
        created = _created(connection)
    if created is None:
        return ""
    made = next(one.made_at for one in find_backups(context.path) if one.path == newest)
    former = isinstance(created[0], int) and created[0] > made.timestamp()
    with suppress(sqlite3.Error, OSError), closing(connect_at_rest(newest)) as connection:
        if is_kept(read_structure(connection.execute)):
            former = _created(connection) != created
    if not former:
        return ""
    return (
        f"{context.path.name} was created after {newest.name}, a backup of another database that "
        "was here: what that holds is missing. If it is not needed, make a new backup"
    )


def _created(connection: sqlite3.Connection) -> tuple[Any, ...] | None:
    """Return the newest entry of a creation in the journal, whose seconds are its own."""
    sql = f"SELECT happened_at, seconds, host FROM {TABLE} WHERE action = 'create'"  # noqa: S608
    found: tuple[Any, ...] | None = connection.execute(f"{sql} ORDER BY id DESC").fetchone()
    return found


def _emptied(context: Context, newest: Path) -> str:
    """Return the tables of secrets that are empty and have rows in the newest backup."""
    contents = context.intact
    if contents is None or not contents.finding.base:
        return ""
    with suppress(OSError, ValueError):
        manifest = read_manifest(newest)
        tables = {table for table, _ in ENCRYPTED} & contents.seen.structure.tables.keys()
        held = {t: n for t in sorted(tables) if manifest and (n := manifest.rows.get(t, 0))}
        with contents.reader() as connection:
            gone = {t: n for t, n in held.items() if not count(connection.execute, t)}
        return ", ".join(f"{counted(number, 'row')} of {table}" for table, number in gone.items())
    return ""


def _examine(backup: Path) -> tuple[Level, str]:
    """Return ``ok`` if a backup is intact; else its problem, or why it cannot be read."""
    try:
        manifest = read_manifest(backup)
        if found := foreign(backup, manifest):
            return Level.WARNING, found.reason
        if manifest is not None and manifest.sha256 != sha256_of(backup):
            return Level.WARNING, "it is not the file that its manifest describes"
        damage = check_pages(backup)
        if not damage:
            require_trusted(backup)
    except TokenStorageError as error:
        remedy = f" {error.remedy}" if error.code == "untrusted" else ""
        level = Level.UNKNOWN if error.code in _CLOSED else Level.WARNING
        return level, f"{error.message}{remedy}"
    except PermissionError as error:
        return Level.UNKNOWN, f"{error.filename} cannot be read ({error.strerror})"
    except (OSError, ValueError, sqlite3.Error) as error:
        return Level.WARNING, str(error)
    return (Level.WARNING if damage else Level.OK), damage


def incomplete(context: Context) -> Iterator[Finding]:
    """Check for incomplete files of processes that were killed."""
    if reason := unlisted(context.path.parent):
        yield Finding(Level.UNKNOWN, f"whether there are any is unknown: {reason}")
    elif found := abandoned_files(context.path, "."):
        names = ", ".join(path.name for path in found[:3])
        what = f"{counted(len(found), 'incomplete file')} left behind: {names}"
        yield context.repairable(Level.NOTE, what)
    else:
        yield Finding(Level.OK, "there are none")


def lock(context: Context) -> Iterator[Finding]:
    """Check who holds the migration lock now."""
    path = context.beside(".lock")
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            yield _no_lock(path, "is no regular file")
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield Finding(Level.OK, "no process has started or migrated it here yet")
        return
    except OSError as error:
        what = (
            f"{path.name} cannot be opened ({error.strerror}), so this user cannot migrate, "
            "nor see whether another process does"
        )
        yield Finding(Level.WARNING, what)
        return
    try:
        if not is_announcement(os.pread(descriptor, LONGEST + 1, 0)):
            yield _no_lock(path, FOREIGN)
            return
        # Shared and released at once: a process that wants the lock retries.
        if try_lock(descriptor, shared=True):
            yield Finding(Level.OK, "no process holds it")
        else:
            yield Finding(Level.NOTE, f"it is held: {holder(path)}")
    except OSError as error:
        what = f"the file system cannot lock ({error.strerror}), so nothing can be migrated here"
        yield Finding(Level.WARNING, what)
    finally:
        os.close(descriptor)


def _no_lock(path: Path, what: str) -> Finding:
    what = f"{path.name} {what}, so nothing can be started or migrated here"
    return Finding(Level.ERROR, what, f"mv {for_shell(path)} {for_shell(path)}.moved")


def server(context: Context) -> Iterator[Finding]:
    """Check whether a server is using the database."""
    path = context.beside(".inuse")
    with suppress(OSError):
        irregular = not stat.S_ISREG(path.lstat().st_mode)
        if irregular or is_foreign(path):
            what = "is no regular file" if irregular else FOREIGN
            what = f"{path.name} {what}, so a server cannot leave its name for a command there"
            command = f"mv {for_shell(path)} {for_shell(path)}.moved"
            yield Finding(Level.WARNING, f"{what}; stop every server and move it away", command)
    try:
        running = is_held(context.path)
    except OSError as error:
        what = f"whether one is running is unknown: {path.name} cannot be opened ({error.strerror})"
        yield Finding(Level.UNKNOWN, what)
        return
    if not running:
        yield Finding(Level.OK, "none is running on it")
        return
    yield Finding(Level.OK, f"one is running on it ({describe(context.path)})")


def clock(context: Context) -> Iterator[Finding]:
    """Check that the clock can be right, and that no row has a later time."""
    now = time.time()
    shown = moment(datetime.fromtimestamp(now, UTC))
    if now < _TOO_EARLY:
        what = f"the clock shows {shown}, which is in the past: tokens do not expire"
        yield Finding(Level.ERROR, what, "timedatectl set-ntp true")
        return
    if reason := context.rows_unread:
        what = f"it shows {shown}; whether a row has a later time is unknown: {reason}"
        yield Finding(Level.UNKNOWN, what)
        return
    newest, table = _newest(context)
    if newest > now + _SKEW:
        ahead = f"{(newest - now) / _DAY:.1f} days" if newest - now > _DAY else "hours"
        what = f"{table} has a row from the future ({ahead} after the clock, {shown})"
        yield Finding(Level.WARNING, what, "timedatectl set-ntp true")
    else:
        yield Finding(Level.OK, f"it shows {shown}, and no row has a later time")


def _newest(context: Context) -> tuple[float, str]:
    contents = context.intact
    if contents is None:
        return 0.0, ""
    known = contents.history.structure(contents.history.head).tables
    found = (0.0, "")
    with contents.reader() as connection:
        for table in sorted(known.keys() & contents.seen.structure.tables.keys()):
            columns = contents.seen.structure.tables[table].columns
            for column in (c for c in _WRITTEN_AT if c in columns):
                # Milliseconds, and what is not a number of seconds, are ignored.
                query = (
                    f"SELECT max({quoted(column)}) FROM {quoted(table)} NOT INDEXED "  # noqa: S608
                    f"WHERE typeof({quoted(column)}) IN ('integer', 'real') "
                    f"AND {quoted(column)} < 100000000000"
                )
                [(newest,)] = connection.execute(query)
                found = max(found, (float(newest or 0), table))
    return found
