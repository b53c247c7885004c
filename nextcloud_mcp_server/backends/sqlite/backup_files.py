"""The backups beside a database: their names, their order, and which of them are kept.

Clocks go back and forth, so the order is that of the numbers in the manifests. Which backups
are kept depends on what is in them, not only on their number.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple

from nextcloud_mcp_server.backends.sqlite.companions import Misplaced, find_misplaced
from nextcloud_mcp_server.backends.sqlite.connect import has_content
from nextcloud_mcp_server.backends.sqlite.integrity import check_pages
from nextcloud_mcp_server.backends.sqlite.manifest import (
    Manifest,
    manifest_path,
    read_manifest,
    sha256_of,
)
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.filesystem import files, permissions
from nextcloud_mcp_server.settings import trusted_owners

#: The number of the newest automatic backups of a database that are kept.
KEEP: Final = 5

#: The time by which two clocks can differ.
CLOCK_SKEW: Final = timedelta(days=1)

#: What a backup was made for: a migration, the user, a restore that replaces a database, or a
#: store whose file was deleted, moved or replaced while it was open.
Kind = Literal["automatic", "manual", "replaced", "rescued"]

_ID: Final = re.compile(r"\w{1,32}", re.ASCII)

#: The end of a backup's name, after the name of its database.
NAME: Final = re.compile(
    r"\.backup-(?P<made>\d{8}T\d{6}\.\d{6}Z)-(?P<revision>\w{1,32}?)"
    r"(?:-(?P<kind>manual|replaced|rescued))?",
    re.ASCII,
)

#: A time in the name of a backup.
TIMESTAMP: Final = "%Y%m%dT%H%M%S.%fZ"


class FoundBackup(NamedTuple):
    """A backup beside a database, by its name and its manifest.

    Attributes:
        made_at: the time in its name.
        revision: the revision in its name.
        kind: one of :data:`Kind`.
        manifest: None if there is none, or it is not one.
        sequence: its place in the order of all, from the manifest. Without a number there, it
            is placed by its time.
    """

    path: Path
    made_at: datetime
    revision: str
    kind: str
    manifest: Manifest | None
    sequence: int


def backup_path(database: Path, revision: str | None, kind: Kind = "automatic") -> Path:
    """Return the name of a new backup: ``tokens.db.backup-<UTC time>-<revision>``.

    The name of another kind ends with it (``-manual``), and its file is never pruned. If a damaged
    version table holds something else than an id, the name has ``unversioned``; of several ids, it
    has all.
    """
    moment = datetime.now(UTC).strftime(TIMESTAMP)
    ending = "" if kind == "automatic" else f"-{kind}"
    revision = (revision or "").replace(", ", "_")
    if not _ID.fullmatch(revision):
        revision = "unversioned"
    return database.with_name(f"{database.name}.backup-{moment}-{revision}{ending}")


def time_of(name: re.Match[str]) -> datetime | None:
    """Return the time in the name of a backup; None if it is not a valid time."""
    try:
        return datetime.strptime(name["made"], TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def find_backups(database: Path) -> list[FoundBackup]:
    """Return the backups beside ``database``, in the order in which they were made.

    Raises:
        OSError: the folder cannot be read.
    """
    found = []
    for path in database.parent.iterdir():
        name = NAME.fullmatch(path.name.removeprefix(database.name))
        if name is None or not path.name.startswith(database.name):
            continue
        if (made_at := time_of(name)) and path.is_file() and not _is_same(path, database):
            manifest = None
            with suppress(OSError, ValueError):
                manifest = read_manifest(path)
            number = manifest.sequence if manifest else 0
            kind = name["kind"] or "automatic"
            found.append(FoundBackup(path, made_at, name["revision"], kind, manifest, number))
    found.sort(key=lambda one: (one.made_at, one.path))
    placed, highest = [], 0
    for one in found:
        highest = max(highest, one.sequence)
        placed.append(one if one.sequence else one._replace(sequence=highest))
    # Backups of one number stay in the order of their times.
    return sorted(placed, key=lambda one: one.sequence)


def lost_rows(database: Path, tables: Iterable[str]) -> dict[Path, dict[str, int]]:
    """Return the rows of missing tables in the newest backup that has each, by the manifests.

    What a restore replaced is not searched, and a folder that cannot be read has no backups.
    """
    lost: dict[Path, dict[str, int]] = {}
    missing = set(tables)
    if not missing:
        return lost
    with suppress(OSError):
        for one in reversed(find_backups(database)):
            if one.manifest is None or one.kind == "replaced":
                continue
            for table in sorted(missing & one.manifest.rows.keys()):
                missing.remove(table)
                if number := one.manifest.rows[table]:
                    lost.setdefault(one.path, {})[table] = number
    return lost


def described(rows: Mapping[str, int]) -> str:
    """Return the number of rows of each table, as text."""
    return ", ".join(f"{counted(number, 'row')} of {table}" for table, number in rows.items())


def _is_same(path: Path, database: Path) -> bool:
    """Return whether both are one file: a link to the database is no backup of it."""
    try:
        return path.samefile(database)
    except OSError:
        return False


def automatic_backups(database: Path) -> list[Path]:
    """Return the automatic backups beside ``database``, oldest first."""
    return [one.path for one in find_backups(database) if one.kind == "automatic"]


def discard(backup: Path) -> None:
    """Delete a backup and its manifest; the manifest first, so that none is left alone.

    Raises:
        OSError: the backup could not be deleted.
    """
    with suppress(OSError):
        manifest_path(backup).unlink(missing_ok=True)
    backup.unlink()


def prune(database: Path, keep: int = KEEP, made: Iterable[Path] = ()) -> list[Path]:
    """Delete the automatic backups that are not worth keeping, and return the deleted ones.

    Files of other names and of other databases are never deleted. A backup that cannot be
    deleted stays: a start must not fail for it.

    Args:
        database: the database.
        keep: the number of the newest that stay, beside those that :func:`surplus` keeps.
        made: what this process has made and verified; never deleted.
    """
    gone = []
    with suppress(OSError):
        automatic = [one for one in find_backups(database) if one.kind == "automatic"]
        old = [one.path for one in surplus(automatic, keep, frozenset(made))]
        for path in (*old, *files.abandoned_files(database, ".backup-")):
            with suppress(OSError):
                discard(path)
                gone.append(path)
    return gone


def make_private(database: Path) -> None:
    """Close every backup of this user, and its manifest, to other users; a group may read them."""
    trusted = trusted_owners()
    with suppress(OSError):
        for one in find_backups(database):
            for file in (one.path, manifest_path(one.path)):
                permissions.close_to_others(file, trusted)


def surplus(
    found: list[FoundBackup], keep: int, made: frozenset[Path] = frozenset()
) -> list[FoundBackup]:
    """Return the backups that can be deleted, oldest first.

    Never the newest ``keep``, nor ``made``. And of each revision, and of each kind of change
    that backups of it were made before, never the last intact one: it is what is left of the
    database from before that change.
    """
    gone: list[FoundBackup] = []
    proven: set[tuple[str, str, str]] = set()
    newer: dict[tuple[str, str, str], list[FoundBackup]] = {}
    for place, one in enumerate(reversed(found)):
        # What a restore replaced is not restored as the newest, so it proves nothing for others.
        kind = one.kind if one.kind == "replaced" else ""
        change = (one.revision, one.manifest.action if one.manifest else "", kind)
        same = newer.setdefault(change, [])
        if place >= keep and one.path not in made:
            if change not in proven and any(two.path in made or is_intact(two) for two in same):
                proven.add(change)
            if change in proven or (same and not is_intact(one)):
                gone.append(one)
                continue
        same.append(one)
    return gone[::-1]


def beside(backup: Path) -> Misplaced | None:
    """Return a ``-wal`` or ``-journal`` with content beside a backup of this program; else None.

    No backup of this program has one of its own, and SQLite would apply it.
    """
    for suffix in ("-wal", "-journal"):
        if has_content(backup, suffix):
            reason = (
                f"{backup.name}{suffix} lies beside it and has content, which SQLite would apply "
                "to it; a backup of this program has none"
            )
            return Misplaced(f"{backup}{suffix}", reason)
    return None


def foreign(backup: Path, manifest: Manifest | None) -> Misplaced | None:
    """Return a companion that is not the backup's own; None if there is none.

    A copy of a database, which has no manifest, can have companions.

    Raises:
        OSError, sqlite3.Error: they cannot be read.
    """
    if manifest is None:
        return find_misplaced(backup, backup.stat().st_size)
    return beside(backup)


def orphaned(what: str, found: Misplaced) -> TokenStorageError:
    """Return the error for a companion beside a backup."""
    return TokenStorageError(
        f"{what}: {found.reason}.",
        code="orphaned",
        remedy="Nothing was changed. Move it away, then try again: "
        f"mv {for_shell(found.path)} {for_shell(found.path)}.orphaned",
    )


def require_trusted(backup: Path) -> None:
    """Fail if another user can have put a backup or its manifest there, or changed it.

    Raises:
        TokenStorageError: ``untrusted``.
    """
    database = backup.with_name(NAME.sub("", backup.name))
    for file in (backup, manifest_path(backup)):
        permissions.require_trusted(file, database, trusted_owners())


def is_intact(backup: FoundBackup) -> bool:
    """Return whether a backup is what its manifest describes; without one, whether it is sound.

    One that another user can have put there is not.
    """
    try:
        require_trusted(backup.path)
        if foreign(backup.path, backup.manifest):
            return False
        if backup.manifest is None:
            return not manifest_path(backup.path).exists() and not check_pages(backup.path)
        return backup.manifest.sha256 == sha256_of(backup.path)
    except (OSError, sqlite3.Error, TokenStorageError):
        return False
