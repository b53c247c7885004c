"""Checks of the place: settings, file, permissions, file system, space."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.size import Pages, pages_of, upgrade_needs
from nextcloud_mcp_server.crypto.keyfile import key_path
from nextcloud_mcp_server.errors import for_shell
from nextcloud_mcp_server.filesystem import mounts
from nextcloud_mcp_server.filesystem import permissions as access
from nextcloud_mcp_server.filesystem.space import free_bytes, readable
from nextcloud_mcp_server.maintenance.doctor.companions import backups_of, unlisted
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.subject import Subject
from nextcloud_mcp_server.migrate.plan import Action, plan

#: What a mode allows to every user of the machine.
OTHERS: Final = 0o007
_GROUP: Final = 0o070

#: More names than these are counted.
_NAMED: Final = 3


def configuration(subject: Subject) -> Iterator[Finding]:
    """Which setting names the database, and which settings are not looked at."""
    settings, name = subject.settings, "configuration"
    if settings.fallback_from:
        yield Finding(
            name,
            Level.WARNING,
            f"{settings.fallback_from} cannot be used here, so {settings.database} is used instead",
            f"export TOKEN_STORAGE_DB={for_shell(settings.database)}",
        )
    if settings.overruled:
        yield Finding(
            name,
            Level.NOTE,
            "DATABASE_URL wins over TOKEN_STORAGE_DB, which is set too",
            "unset TOKEN_STORAGE_DB",
        )
    if settings.keys and settings.key_file:
        yield Finding(
            name,
            Level.NOTE,
            "TOKEN_ENCRYPTION_KEY wins over TOKEN_ENCRYPTION_KEY_FILE, which is set too",
            "unset TOKEN_ENCRYPTION_KEY_FILE",
        )
    if not (settings.fallback_from or settings.overruled):
        source = settings.source or "the command line or the default"
        yield Finding(name, Level.OK, f"the database is named by {source}")


def file(subject: Subject) -> Iterator[Finding]:
    """Whether there is a file that can be a database, and under how many names."""
    path, name = subject.path, "file"
    if subject.trouble:
        error = subject.trouble
        yield Finding(name, Level.ERROR, f"{error.message} {error.remedy}")
        return
    if subject.settings.database.is_symlink():
        what = f"{subject.settings.database} is a link to {path}, beside which everything lies"
        yield Finding(name, Level.NOTE, what)
    if not path.exists():
        if subject.closed:
            what = f"there is no file {path}, and a start cannot make it (see writable)"
            yield Finding(name, Level.NOTE, what)
        else:
            what = f"there is no file {path}; a start makes it"
            yield Finding(name, Level.NOTE, what, subject.command("upgrade"))
        return
    found = path.stat()
    if found.st_nlink > 1:
        what = f"{path} has {found.st_nlink} names (hard links), and each has a journal of its own"
        yield Finding(name, Level.WARNING, what, "rm the names that are not used")
    yield Finding(name, Level.OK, f"{path} is a regular file of {readable(found.st_size)}")


def loose(database: Path, bits: int = OTHERS) -> list[Path]:
    """The files with tokens or keys whose mode has one of ``bits``."""
    beside = [Path(f"{database}{suffix}") for suffix in ("", "-wal", "-journal")]
    private = [*beside, key_path(database), *backups_of(database)]
    found = []
    for path in private:
        try:
            seen = path.lstat()
        except OSError:
            continue
        # An empty one is what looking at a WAL database leaves.
        bare = path in beside[1:] and not seen.st_size
        if stat.S_ISREG(seen.st_mode) and seen.st_mode & bits and not bare:
            found.append(path)
    return found


def _hidden(database: Path) -> str:
    """Why the mode of what is secret cannot be seen; empty where all of it can."""
    try:
        key_path(database).lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"{database.parent} cannot be looked into ({error.strerror})"
    return unlisted(database.parent)


def permissions(subject: Subject) -> Iterator[Finding]:
    """Whether anybody but the server's user can read or replace what is secret."""
    name, folder = "permissions", subject.path.parent
    if hidden := _hidden(subject.path):
        what = f"who may use what is secret is unknown: {hidden}"
        yield Finding(name, Level.UNKNOWN, what, subject.as_owner_of(folder))
    others = loose(subject.path)
    if others:
        what = f"every user of this machine may use {_names(others)}"
        own = all(_is_own(path) for path in others)
        yield Finding(name, Level.WARNING, what, _chmod(others), mendable=own)
    if group := [path for path in loose(subject.path, _GROUP) if path not in others]:
        what = f"a group may use {_names(group)}"
        yield Finding(name, Level.NOTE, what, _chmod(group))
    if _is_open(folder):
        what = f"every user of this machine may replace the files in {folder}"
        yield Finding(name, Level.WARNING, what, f"chmod o-w {for_shell(folder)}")
    if subject.trouble is None and subject.path.exists() and not _is_own(subject.path):
        owner = subject.path.stat().st_uid
        what = f"the file belongs to user {owner}, and this is user {os.geteuid()}"
        yield Finding(name, Level.NOTE, what)
    if not others and not group and not hidden:
        yield Finding(name, Level.OK, "what is secret is open to its owner alone")


def _names(paths: list[Path]) -> str:
    names = ", ".join(path.name for path in paths[:_NAMED])
    more = len(paths) - _NAMED
    return f"{names} and {more} more" if more > 0 else names


def _chmod(paths: list[Path]) -> str:
    return "chmod 600 " + " ".join(for_shell(path) for path in paths)


def _is_own(path: Path) -> bool:
    return os.geteuid() in {0, path.lstat().st_uid}


def _is_open(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    # In a sticky folder only its owner may rename or delete a file.
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def file_system(subject: Subject) -> Iterator[Finding]:
    """Whether SQLite's shared memory, and so WAL, can be trusted there."""
    name = "file system"
    if mounts.on_network(subject.path):
        what = f"{subject.path.parent} is a network file system, so WAL is not used"
        yield Finding(name, Level.WARNING, what)
    elif not mounts.tells_network():
        what = "nobody can tell whether it is a network one; if it is, move the database elsewhere"
        yield Finding(name, Level.NOTE, what)
    elif subject.trouble:
        # A folder that nobody may enter can be a link to another one.
        yield Finding(name, Level.UNKNOWN, f"it was not looked at: {subject.unread}")
    else:
        yield Finding(name, Level.OK, f"{subject.path.parent} is no network file system")


def writable(subject: Subject) -> Iterator[Finding]:
    """Whether the server may write; where it may not, it serves for reading, at head only."""
    name, reason = "writable", access.unwritable(subject.path)
    if subject.unread:
        level = Level.WARNING if reason else Level.UNKNOWN
        yield Finding(name, level, reason or f"it was not looked at: {subject.unread}")
    elif missing := access.unmakeable(subject.path.parent):
        yield Finding(name, Level.ERROR, missing)
    elif not reason:
        yield Finding(name, Level.OK, "file and folder can be written")
    elif pending(subject):
        yield Finding(name, Level.ERROR, f"{reason}, and there is something to do to it")
    else:
        yield Finding(name, Level.WARNING, f"{reason}, so it opens for reading only")


def pending(subject: Subject) -> bool:
    """Whether a start would have to change the database first."""
    opened = subject.opened
    if opened is None or opened.finding.refused:
        return False
    return plan(opened.finding, opened.history, subject.path).action is not Action.NOTHING


def space(subject: Subject) -> Iterator[Finding]:
    """Whether a migration and its backup fit on the disk."""
    name, opened = "space", subject.opened
    if opened is None or subject.unread:
        yield Finding(name, Level.UNKNOWN, f"what an upgrade needs is unknown: {subject.unread}")
        return
    free = free_bytes(access.there(subject.path.parent))
    if free is None:
        yield Finding(name, Level.NOTE, "nobody can tell how much space is free")
        return
    need = upgrade_needs(pages_of(opened.source) if opened.readable else Pages())
    backup, most = readable(need.backup), readable(need.most)
    what = (
        f"{readable(free)} are free; an upgrade takes {backup} for its backup, {most} in all, and "
        "twice what the file grows by (db upgrade --dry-run tells that)"
    )
    if free >= need.most:
        yield Finding(name, Level.OK, what)
    else:
        refused = pending(subject) and free < need.backup
        yield Finding(name, Level.ERROR if refused else Level.WARNING, what)
