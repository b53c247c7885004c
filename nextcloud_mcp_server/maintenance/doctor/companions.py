"""Checks of what lies beside the database: backups, half-made files, the lock, the clock."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.catalog import quoted
from nextcloud_mcp_server.backends.sqlite.in_use import holders, is_held
from nextcloud_mcp_server.backends.sqlite.inspect import check_pages
from nextcloud_mcp_server.backends.sqlite.lock import holder
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path, read_manifest, sha256_of
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.maintenance.backups import beside
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.subject import Subject

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

#: Errors that say nothing of what is in a file.
_CLOSED: Final = frozenset({"read-only", "bad-path", "lock-timeout"})


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


def unlisted(folder: Path) -> str:
    """Why what lies in ``folder`` cannot be seen; empty where it can, or where it is not there."""
    try:
        next(folder.iterdir(), None)
        # Names can be read without leave to ask what they are names of.
        os.lstat(f"{folder}/.")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"its folder {folder} cannot be read ({error.strerror})"
    return ""


def backups(subject: Subject) -> Iterator[Finding]:
    """Whether there is a backup that verifies, and how old it is."""
    name, found = "backups", backups_of(subject.path)
    if reason := unlisted(subject.path.parent):
        yield _unseen(subject, name, f"whether there are any is unknown: {reason}")
        return
    if not found:
        holds = subject.opened is not None and subject.opened.readable
        level = Level.NOTE if holds or subject.unread else Level.OK
        what = "there is none yet; a migration makes one by itself"
        yield Finding(name, level, what, subject.command("backup") if holds else None)
        return
    checked = found if subject.full else found[-1:]
    for path in checked:
        level, what = verdict_on(path)
        if level is Level.UNKNOWN:
            what = f"whether {path.name} is good is unknown: {what}"
            yield Finding(name, level, what, subject.as_owner_of(path))
        elif level is not Level.OK:
            yield Finding(name, level, f"{path.name} is no good: {what}")
    if bare := [path for path in found if not manifest_path(path).exists()]:
        what = f"{len(bare)} of {len(found)} have no manifest, so only their pages can be checked"
        yield Finding(name, Level.NOTE, what)
    days = int((time.time() - found[-1].stat().st_mtime) // _DAY)
    what = f"there are {len(found)}, the newest {counted(days, 'day')} old: {found[-1].name}"
    level = Level.NOTE if days > _OLD else Level.OK
    yield Finding(name, level, what, subject.command("backup") if days > _OLD else None)


def verdict_on(backup: Path) -> tuple[Level, str]:
    """Whether a backup is good (``ok``), or why it is not, or why nobody can tell (``unknown``)."""
    try:
        manifest = read_manifest(backup)
        if manifest is not None and manifest.sha256 != sha256_of(backup):
            return Level.WARNING, "it is not the file that its manifest describes"
        damage = check_pages(backup)
    except TokenStorageError as error:
        return (Level.UNKNOWN if error.code in _CLOSED else Level.WARNING), error.message
    except PermissionError as error:
        return Level.UNKNOWN, f"{error.filename} cannot be read ({error.strerror})"
    except (OSError, ValueError) as error:
        return Level.WARNING, str(error)
    return (Level.WARNING if damage else Level.OK), damage


def _unseen(subject: Subject, name: str, what: str) -> Finding:
    """A finding of what the folder hides."""
    return Finding(name, Level.UNKNOWN, what, subject.as_owner_of(subject.path.parent))


def half_made(subject: Subject) -> Iterator[Finding]:
    """Whether somebody who was killed left half-made files behind."""
    if reason := unlisted(subject.path.parent):
        yield _unseen(subject, "half-made files", f"whether there are any is unknown: {reason}")
    elif found := partials_of(subject.path):
        names = ", ".join(path.name for path in found[:3])
        what = f"{counted(len(found), 'half-made file')} left behind: {names}"
        yield Finding("half-made files", Level.NOTE, what, subject.command("repair"), mendable=True)
    else:
        yield Finding("half-made files", Level.OK, "there are none")


def lock(subject: Subject) -> Iterator[Finding]:
    """Who holds the lock of starts and migrations now."""
    name, path = "lock", subject.beside(".lock")
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            what = f"{path.name} is no regular file, so nothing can be started or migrated here"
            mend = f"mv {for_shell(path)} {for_shell(path)}.moved"
            yield Finding(name, Level.ERROR, what, mend)
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield Finding(name, Level.OK, "nobody has started or migrated it here yet")
        return
    except OSError as error:
        what = (
            f"{path.name} cannot be opened ({error.strerror}), so this user cannot migrate, "
            "nor see whether somebody does"
        )
        yield Finding(name, Level.WARNING, what, subject.as_owner_of(path))
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
    try:
        running = is_held(subject.path)
    except OSError as error:
        lock = subject.beside(".inuse")
        what = f"whether one is running is unknown: {lock.name} cannot be asked ({error.strerror})"
        yield Finding(name, Level.UNKNOWN, what, subject.as_owner_of(lock))
        return
    if not running:
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
    if subject.unread:
        what = f"it says {moment}; rows from its future were not looked for: {subject.unread}"
        yield Finding(name, Level.UNKNOWN, what)
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
