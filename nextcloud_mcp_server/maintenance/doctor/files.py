"""Checks of the settings, the file, its permissions, its file system and its space."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.inspect import is_remote
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.backends.sqlite.size import Pages, pages_of, upgrade_needs
from nextcloud_mcp_server.crypto.keyfile import key_path
from nextcloud_mcp_server.errors import for_shell
from nextcloud_mcp_server.filesystem import mounts
from nextcloud_mcp_server.filesystem import permissions as access
from nextcloud_mcp_server.filesystem.files import names_of
from nextcloud_mcp_server.filesystem.permissions import OTHERS
from nextcloud_mcp_server.filesystem.space import free_bytes, readable
from nextcloud_mcp_server.maintenance.doctor.companions import backups_of, unlisted
from nextcloud_mcp_server.maintenance.doctor.context import Context
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.migrate.plan import Action, plan
from nextcloud_mcp_server.settings import DEFAULT_DATABASE, declared_file_system, trusted_owners

_GROUP: Final = 0o070


def configuration(context: Context) -> Iterator[Finding]:
    """Check which setting names the database, and which settings have no effect."""
    settings, used = context.settings, context.settings.database
    wins = "{0} wins over {1}, which is set too"
    if settings.empty:
        what = f"{settings.empty} is empty and counts as unset, so {used} is used"
        yield Finding(Level.WARNING, what, f"unset {settings.empty}")
    if settings.fallback_from:
        what = f"{settings.fallback_from} cannot be used here, so {used} is used instead"
        command = f"export TOKEN_STORAGE_DB={for_shell(settings.file)}"
        yield Finding(Level.WARNING, what, command)
    if settings.overruled:
        what = wins.format("DATABASE_URL", "TOKEN_STORAGE_DB")
        yield Finding(Level.NOTE, what, "unset TOKEN_STORAGE_DB")
    if settings.keys and settings.key_file:
        what = wins.format("TOKEN_ENCRYPTION_KEY", "TOKEN_ENCRYPTION_KEY_FILE")
        yield Finding(Level.NOTE, what, "unset TOKEN_ENCRYPTION_KEY_FILE")
    if not (settings.fallback_from or settings.overruled or settings.empty):
        source = f"is named by {settings.source}" if settings.source else "is given with -d or -u"
        if not settings.source and used == DEFAULT_DATABASE:
            source = f"is the default, {DEFAULT_DATABASE}"
        yield Finding(Level.OK, f"the database {source}")


def file(context: Context) -> Iterator[Finding]:
    """Check that the file can be a database, and has one name."""
    path = context.path
    if error := context.error:
        yield Finding(Level.ERROR, f"{error.message} {error.remedy}")
        return
    if context.settings.file.is_symlink():
        what = f"{context.settings.database} is a link to {path}; other files are beside the latter"
        yield Finding(Level.NOTE, what)
    if not path.exists():
        can = "; a start makes it"
        cannot = ", and a start cannot make it (see writable)"
        what = f"there is no file {path}"
        if context.contents is not None and context.contents.finding.refused:
            yield Finding(Level.ERROR, f"{what}, and files of it are there (see state)")
            return
        what = f"{what}{cannot if context.closed else can}"
        yield Finding(Level.NOTE, what, context.command("upgrade"))
        return
    found = path.stat()
    if (number := names_of(path)) > 1:
        what = f"{path} has {number} names (hard links), and a start refuses it"
        yield Finding(Level.ERROR, what, f"find / -xdev -samefile {for_shell(path)}")
    yield Finding(Level.OK, f"{path} is a regular file of {readable(found.st_size)}")


def readable_by_others(database: Path, bits: int = OTHERS) -> list[Path]:
    """Return the files with tokens or keys whose mode has one of ``bits``."""
    beside = [Path(f"{database}{suffix}") for suffix in ("", "-wal", "-journal")]
    backups = backups_of(database)
    private = [*beside, key_path(database), *backups, *map(manifest_path, backups)]
    found = []
    for path in private:
        try:
            seen = path.lstat()
        except OSError:
            continue
        # A reader of a WAL database leaves an empty one.
        bare = path in beside[1:] and not seen.st_size
        if stat.S_ISREG(seen.st_mode) and seen.st_mode & bits and not bare:
            found.append(path)
    return found


def open_to_others(database: Path) -> list[Path]:
    """Return those that a start or a repair takes away from others; a group may read them."""
    trusts = os.geteuid() in trusted_owners()
    return readable_by_others(database, OTHERS if trusts else OTHERS | access.GROUP_WRITE)


def permissions(context: Context) -> Iterator[Finding]:
    """Check that only the server's user can read or replace secret files."""
    folder = context.path.parent
    if hidden := unlisted(folder):
        yield Finding(Level.UNKNOWN, f"who can use secret files is unknown: {hidden}")
    others = readable_by_others(context.path)
    for verb, paths in _by_use(others, 0).items():
        what = f"every user of this machine can {verb} {_names(paths)}"
        fixable = all(map(_is_own, paths)) and context.command("repair") is not None
        # A start refuses the key then.
        level = Level.ERROR if key_path(context.path) in paths else Level.WARNING
        yield Finding(level, f"{what}{_whose(paths)}", _chmod(paths), fixable)
    group = [path for path in readable_by_others(context.path, _GROUP) if path not in others]
    changed = open_to_others(context.path)
    for verb, paths in _by_use(group, 3).items():
        what = f"a group can {verb} {_names(paths)}{_whose(paths)}"
        taken = all(path in changed for path in paths)
        fixable = taken and all(map(_is_own, paths)) and context.command("repair") is not None
        level = Level.WARNING if taken else Level.NOTE
        if taken and key_path(context.path) in paths:
            level = Level.ERROR
        yield Finding(level, what, _chmod(paths), fixable)
    if _is_open(folder):
        what = f"every user of this machine can replace the files in {folder}"
        yield Finding(Level.WARNING, what, f"chmod o-w {for_shell(folder)}")
    elif access.can_be_planted(context.path):
        what = f"every user of this machine can put files in {folder}; a start refuses theirs"
        yield Finding(Level.NOTE, what)
    if context.error is None and context.path.exists() and not _is_own(context.path):
        owner = context.path.stat().st_uid
        what = f"the file belongs to user {owner}, and this is user {os.geteuid()}"
        yield Finding(Level.NOTE, what)
    if not others and not group and not hidden:
        yield Finding(Level.OK, "only their owner can use secret files")
    context.database.require_trusted()


def _by_use(paths: list[Path], shift: int) -> dict[str, list[Path]]:
    """Return the files by what the bits of their modes at ``shift`` allow."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        with suppress(OSError):
            found.setdefault(access.uses(path.lstat().st_mode >> shift), []).append(path)
    return found


def _names(paths: list[Path]) -> str:
    names, more = ", ".join(path.name for path in paths[:3]), len(paths) - 3
    return f"{names} and {more} more" if more > 0 else names


def _chmod(paths: list[Path]) -> str | None:
    """Return the command that makes files private; None if this user may change no mode of them."""
    own = [for_shell(path) for path in paths if _is_own(path)]
    return " ".join(["chmod 600", *own]) if own else None


def _whose(paths: list[Path]) -> str:
    """Return who can change the modes of the files of other users, as the end of a message."""
    others = {path.lstat().st_uid for path in paths if not _is_own(path)}
    names = " and ".join(access.user_name(owner) for owner in sorted(others))
    return f"; only user {names} or root can change that" if names else ""


def _is_own(path: Path) -> bool:
    with suppress(OSError):
        return os.geteuid() in {0, path.lstat().st_uid}
    return False


def _is_open(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    # In a sticky folder only its owner can rename or delete a file.
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def file_system(context: Context) -> Iterator[Finding]:
    """Check that SQLite's shared memory, and so WAL, works there."""
    kind, remote = mounts.type_of(context.path) or "unknown", is_remote(context.path)
    if declared := declared_file_system():
        used = "is not used" if remote else "is used"
        what = f"TOKEN_STORAGE_FILESYSTEM is {declared}, so WAL {used} (its type is {kind})"
        yield Finding(Level.NOTE, what)
    elif remote:
        what = f"{context.path.parent} is not known to be local (its type is {kind})"
        what = f"{what}, so WAL is not used; if only this machine uses it, set the variable"
        yield Finding(Level.WARNING, what, "export TOKEN_STORAGE_FILESYSTEM=local")
    elif not mounts.lists_types():
        what = "cannot determine whether it is local; if other machines use it, set the variable"
        yield Finding(Level.NOTE, what, "export TOKEN_STORAGE_FILESYSTEM=remote")
    elif context.error:
        # A folder that cannot be entered can be a link to another file system.
        yield Finding(Level.UNKNOWN, f"not checked: {context.unread}")
    else:
        yield Finding(Level.OK, f"{context.path.parent} is local (its type is {kind})")


def writable(context: Context) -> Iterator[Finding]:
    """Check that the server can write; else it serves for reading, at head only."""
    reason = access.unwritable(context.path)
    if context.unread:
        level = Level.WARNING if reason else Level.UNKNOWN
        yield Finding(level, reason or f"not checked: {context.unread}")
    elif missing := access.unmakeable(context.path.parent):
        yield Finding(Level.ERROR, missing)
    elif not reason:
        yield Finding(Level.OK, "file and folder can be written")
    elif pending(context):
        yield Finding(Level.ERROR, f"{reason}, and it must be changed")
    else:
        yield Finding(Level.WARNING, f"{reason}, so it opens for reading only")


def pending(context: Context) -> bool:
    """Return whether a start would have to change the database first."""
    contents = context.contents
    if contents is None or contents.finding.refused:
        return False
    return plan(contents.finding, contents.history, context.database).action is not Action.NOTHING


def space(context: Context) -> Iterator[Finding]:
    """Check that a migration and its backup fit on the disk."""
    contents = context.contents
    if context.is_foreign:
        return
    if contents is None or context.unread:
        yield Finding(Level.UNKNOWN, f"what an upgrade needs is unknown: {context.unread}")
        return
    free = free_bytes(access.existing_folder(context.path.parent))
    if free is None:
        yield Finding(Level.NOTE, "cannot determine how much space is free")
        return
    need = upgrade_needs(pages_of(contents.source) if contents.readable else Pages())
    backup, most = readable(need.backup), readable(need.most)
    what = (
        f"{readable(free)} are free; an upgrade takes {backup} for its backup, {most} in all, and "
        "twice what the file grows by (to measure it: nextcloud-mcp-server db upgrade --dry-run "
        f"{context.database.option})"
    )
    if free >= need.most:
        yield Finding(Level.OK, what)
    else:
        refused = pending(context) and free < need.backup
        yield Finding(Level.ERROR if refused else Level.WARNING, what)
