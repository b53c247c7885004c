"""Checks of what lies beside the database: backups, half-made files, the lock, the clock."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.archive import beside
from nextcloud_mcp_server.backends.sqlite.catalog import quoted
from nextcloud_mcp_server.backends.sqlite.guard import holder, lock_path
from nextcloud_mcp_server.backends.sqlite.inuse import holders, in_use
from nextcloud_mcp_server.backends.sqlite.look import check_pages
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path, read_manifest, sha256_of
from nextcloud_mcp_server.doctor.finding import Finding, Level, counted
from nextcloud_mcp_server.doctor.subject import Subject
from nextcloud_mcp_server.errors import TokenStorageError

#: What is younger may be being made in this moment.
ABANDONED_AFTER: Final = 3600.0

#: Days after which the newest backup is called old.
_OLD: Final = 30

#: Before this program was written no clock was right.
_TOO_EARLY: Final = datetime(2025, 1, 1, tzinfo=UTC).timestamp()

#: Seconds by which the clocks of two machines may differ.
_SKEW: Final = 300

#: Columns that hold the seconds since 1970 at which a row was written.
_WRITTEN_AT: Final = (
    "created_at",
    "updated_at",
    "timestamp",
    "applied_at",
    "submitted_at",
    "happened_at",
)

_DAY: Final = 86400


def backups_of(database: Path) -> list[Path]:
    """Every backup beside ``database``, by the program or by hand, oldest first."""
    try:
        return [path for _, path, _ in beside(database)]
    except OSError:
        return []


def partials_of(database: Path) -> list[Path]:
    """Files that somebody who was killed left half-made, more than an hour ago."""
    name = re.compile(re.escape(f".{database.name}.") + r".+\.partial(-journal|-wal|-shm)?")
    youngest, found = time.time() - ABANDONED_AFTER, []
    try:
        beside = list(database.parent.iterdir())
    except OSError:
        return []
    for path in beside:
        try:
            if name.fullmatch(path.name) and path.lstat().st_mtime < youngest:
                found.append(path)
        except FileNotFoundError:
            continue
    return sorted(found)


def backups(subject: Subject) -> Iterator[Finding]:
    """Whether there is a backup that verifies, and how old it is."""
    name, found = "backups", backups_of(subject.path)
    if not found:
        holds = subject.opened is not None and subject.opened.readable
        level = Level.NOTE if holds else Level.OK
        what = "there is none yet; a migration makes one by itself"
        yield Finding(name, level, what, subject.command("backup") if holds else None)
        return
    checked = found if subject.full else found[-1:]
    for path in checked:
        if damage := damage_of(path):
            yield Finding(name, Level.WARNING, f"{path.name} is no good: {damage}")
    if bare := [path for path in found if not manifest_path(path).exists()]:
        what = f"{len(bare)} of {len(found)} have no manifest, so only their pages can be checked"
        yield Finding(name, Level.NOTE, what)
    days = int((time.time() - found[-1].stat().st_mtime) // _DAY)
    what = f"there are {len(found)}, the newest {counted(days, 'day')} old: {found[-1].name}"
    level = Level.NOTE if days > _OLD else Level.OK
    yield Finding(name, level, what, subject.command("backup") if days > _OLD else None)


def damage_of(backup: Path) -> str:
    """Why a backup is no good; empty where it is."""
    try:
        manifest = read_manifest(backup)
        if manifest is not None and manifest.sha256 != sha256_of(backup):
            return "it is not the file that its manifest describes"
        return check_pages(backup)
    except TokenStorageError as error:
        return error.message
    except (OSError, ValueError) as error:
        return str(error)


def half_made(subject: Subject) -> Iterator[Finding]:
    """Whether somebody who was killed left half-made files behind."""
    if found := partials_of(subject.path):
        names = ", ".join(path.name for path in found[:3])
        what = f"{counted(len(found), 'half-made file')} left behind: {names}"
        yield Finding("half-made files", Level.NOTE, what, subject.command("repair"), mendable=True)
    else:
        yield Finding("half-made files", Level.OK, "there are none")


def lock(subject: Subject) -> Iterator[Finding]:
    """Who holds the lock of starts and migrations now."""
    name, path = "lock", lock_path(subject.path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield Finding(name, Level.OK, "nobody has started or migrated it here yet")
        return
    except OSError as error:
        what = f"{path.name} cannot be opened ({error.strerror}), so this user cannot migrate"
        yield Finding(name, Level.WARNING, what)
        return
    try:
        # Shared and given back at once: whoever migrates polls, and is not kept out.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        yield Finding(name, Level.NOTE, f"it is held: {holder(path)}")
    except OSError as error:
        what = f"the file system cannot lock ({error.strerror}), so nothing can be migrated here"
        yield Finding(name, Level.WARNING, what)
    else:
        yield Finding(name, Level.OK, "nobody holds it")
    finally:
        os.close(descriptor)


def server(subject: Subject) -> Iterator[Finding]:
    """Whether a server is running on it, which goes on with what is replaced under it."""
    name = "server"
    if not in_use(subject.path):
        yield Finding(name, Level.OK, "none is running on it")
        return
    pids = ", ".join(map(str, holders(subject.path)))
    what = f"one is running on it (process {pids})" if pids else "one is running on it"
    yield Finding(name, Level.OK, what)


def clock(subject: Subject) -> Iterator[Finding]:
    """Whether the clock can be right, and no row was written in its future."""
    name, now = "clock", time.time()
    moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    if now < _TOO_EARLY:
        what = f"the clock says {moment}, which is long over: tokens do not expire"
        yield Finding(name, Level.ERROR, what, "timedatectl set-ntp true")
        return
    newest, table = _newest(subject)
    if newest > now + _SKEW:
        ahead = f"{(newest - now) / _DAY:.1f} days" if newest - now > _DAY else "hours"
        what = f"{table} has a row from the future ({ahead} ahead of the clock, {moment})"
        yield Finding(name, Level.WARNING, what, "timedatectl set-ntp true")
    else:
        yield Finding(name, Level.OK, f"it says {moment}, and no row is from the future")


def _newest(subject: Subject) -> tuple[float, str]:
    opened = subject.opened
    if opened is None or not opened.readable:
        return 0.0, ""
    known = opened.history.structure(opened.history.head).tables
    found = (0.0, "")
    with opened.reader() as connection:
        for table in sorted(known.keys() & opened.seen.structure.tables.keys()):
            columns = opened.seen.structure.tables[table].columns
            for column in (c for c in _WRITTEN_AT if c in columns):
                # Milliseconds, or anything else that is no number of seconds, are left out.
                query = (
                    f"SELECT max({quoted(column)}) FROM {quoted(table)} NOT INDEXED "  # noqa: S608
                    f"WHERE typeof({quoted(column)}) IN ('integer', 'real') "
                    f"AND {quoted(column)} < 100000000000"
                )
                [(newest,)] = connection.execute(query)
                found = max(found, (float(newest or 0), table))
    return found
