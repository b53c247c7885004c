"""Read a backup completely and check whether it can be restored. Changes no file."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.backup_files import (
    NAME,
    find_backups,
    foreign,
    orphaned,
    time_of,
)
from nextcloud_mcp_server.backends.sqlite.catalog import counts, read_snapshot
from nextcloud_mcp_server.backends.sqlite.connect import connect_at_rest
from nextcloud_mcp_server.backends.sqlite.errors import at_limit
from nextcloud_mcp_server.backends.sqlite.integrity import check
from nextcloud_mcp_server.backends.sqlite.manifest import (
    Manifest,
    as_texts,
    read_manifest,
    sha256_of,
)
from nextcloud_mcp_server.backends.sqlite.secrets import read_keys
from nextcloud_mcp_server.backends.sqlite.usable import unusable
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.filesystem.permissions import closed_by
from nextcloud_mcp_server.maintenance.keys.reader import file_reader
from nextcloud_mcp_server.maintenance.keys.values import PLAIN, is_id, values_of
from nextcloud_mcp_server.migrate.classify import (
    TEMPORARY,
    classify,
    is_released,
    triggers_on,
    used_tables,
)
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import Finding, State

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring


#: Identifies a version of a file: device, inode, size, time of the last change.
Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Backup:
    """A file that was read completely and can be restored.

    Attributes:
        revisions: the rows of its version table; None without the table.
        rows: the number of rows of every table.
        size: in bytes.
        made_at: the time in its manifest, in its name, or else of the file.
        secrets: the number of encrypted values in it.
        opened: how many of them the available keys open, each for its row; None without a key.
        triggers: the table of each trigger on a table of this program.
        unusable: why a start would refuse it once it is restored; empty if it would not.
    """

    path: Path
    finding: Finding
    revisions: tuple[str | None, ...] | None
    rows: dict[str, int]
    size: int
    made_at: datetime
    manifest: Manifest | None
    secrets: int
    opened: int | None
    triggers: dict[str, str]
    unusable: str
    signature: Signature

    @property
    def revision(self) -> str | None:
        """The revision that it records; None if it records none."""
        return self.finding.recorded


class ChangedError(Exception):
    """A backup differs from its manifest."""


def check_backup(path: Path, database: Path, keyring: Keyring | None = None) -> Backup:
    """Read a backup completely and return what is in it.

    ``database`` is only named in errors; the keys are tried on every secret.

    Raises:
        TokenStorageError: ``io-error`` if too many files are open;
            ``bad-backup`` if it is not a database of this program, is damaged, is newer than
            this program, or differs from its manifest;
            ``orphaned`` if a ``-wal`` or ``-journal`` beside it is not its own;
            ``wrong-key`` if no key opens any of its secrets.
    """
    signature = signature_of(path, database)
    try:
        manifest = read_manifest(path)
        require_alone(path, manifest)
        with closing(connect_at_rest(path)) as connection:
            connection.execute("BEGIN")
            backup = _read(connection, path, database, manifest, keyring)
        if manifest and sha256_of(path) != manifest.sha256:
            # Last, because the errors of SQLite are more precise.
            raise ChangedError("its SHA-256 is not the one in its manifest")
    except ChangedError as error:
        raise TokenStorageError(
            f"{path} has been changed since it was made: {error}.",
            code="bad-backup",
            remedy=f"Choose another. If you made the change, delete {path.name}.json: then only "
            "the content of the file is checked.",
        ) from error
    except (sqlite3.Error, UnicodeDecodeError, OSError, ValueError) as error:
        if limited := at_limit(error, path):
            raise limited from error
        raise _bad(path, f"it cannot be read ({' '.join(str(error).split())})", database) from error
    if backup.secrets and backup.opened == 0:
        raise TokenStorageError(
            f"No given key opens a secret in {path}, which has {backup.secrets}.",
            code="wrong-key",
            remedy="Give the key that they were written with in TOKEN_ENCRYPTION_KEY "
            "(several: NEWEST;OLDER); nothing was changed.",
        )
    if signature != signature_of(path, database):
        raise _bad(path, "it was changed while it was read", database)
    return backup


def require_alone(path: Path, manifest: Manifest | None) -> None:
    """Fail if SQLite would apply a ``-wal`` or ``-journal`` to a backup that is not its own.

    Raises:
        TokenStorageError: ``orphaned``.
        OSError, sqlite3.Error: it cannot be read.
    """
    if found := foreign(path, manifest):
        raise orphaned(f"{path} cannot be restored", found)


def _read(
    connection: sqlite3.Connection,
    path: Path,
    database: Path,
    manifest: Manifest | None,
    keyring: Keyring | None,
) -> Backup:
    seen = read_snapshot(connection.execute)
    finding = classify(seen, known_history())
    if finding.refused:
        raise _bad(path, finding.reason, database)
    if finding.state is State.NEW:
        raise _bad(path, "there is no table in it", database)
    status = path.stat()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if status.st_size % page_size:
        raise _bad(path, "its last page is cut off", database)
    if damage := check(connection, "integrity_check").damage:
        raise _bad(path, f"it is damaged: {'; '.join(damage[:3])}", database)
    rows = counts(connection.execute, seen.structure)
    if manifest is not None:
        _check_contents(manifest, status.st_size, seen.versions, rows)
    secrets, opened = _count_secrets(connection, seen, finding, keyring)
    return Backup(
        path=path,
        finding=finding,
        revisions=seen.versions,
        rows=rows,
        size=status.st_size,
        made_at=time_made(path, manifest, status.st_mtime),
        manifest=manifest,
        secrets=secrets,
        opened=None if keyring is None else opened,
        triggers=triggers_on(seen.structure, known_history()),
        unusable=_unusable(path, seen, finding),
        signature=signature_of(path, database),
    )


def _count_secrets(
    connection: sqlite3.Connection, seen: Snapshot, finding: Finding, keyring: Keyring | None
) -> tuple[int, int]:
    """Return the number of encrypted values, and of those that the keys open for their rows."""
    known = read_keys(connection, seen.structure)
    reader = file_reader(connection, seen.structure, finding.adopted)
    number = opened = 0
    for table in reader.tables:
        name = table.removeprefix(TEMPORARY)
        rows = (stored.row for page in reader.pages(table) for stored in page)
        for value in (value for row in rows for value in values_of(name, row, keyring, known)):
            if value.kind != PLAIN and not is_id(name, value.column):
                number += 1
                opened += not value.reason
    return number, opened


def _unusable(path: Path, seen: Snapshot, finding: Finding) -> str:
    """Return which tables of a backup the store cannot use, as text."""
    history, base = known_history(), finding.base
    if base is None or is_released(seen.structure, history, base):
        return ""
    with closing(connect_at_rest(path)) as connection:
        found = unusable(connection, used_tables(history, base))
    return "; ".join(f"{table}: {reason}" for table, reason in sorted(found.items()))


def check_size(manifest: Manifest, size: int) -> None:
    """Raise ChangedError if a file does not have the size in its manifest."""
    if manifest.bytes != size:
        raise ChangedError(f"it has {size} bytes, and {manifest.bytes} in its manifest")


def _check_contents(
    manifest: Manifest, size: int, revisions: tuple[str | None, ...] | None, rows: dict[str, int]
) -> None:
    check_size(manifest, size)
    if manifest.revisions != as_texts(revisions):
        raise ChangedError("its revision is not the one in its manifest")
    # What made it may not have been able to count a table that can be counted here.
    for table in sorted(manifest.rows):
        if rows.get(table) != manifest.rows[table]:
            there, expected = rows.get(table), manifest.rows[table]
            found = "no rows" if there is None else counted(there, "row")
            raise ChangedError(f"{table} has {found}, and {expected} in its manifest")


def time_made(path: Path, manifest: Manifest | None, modified: float) -> datetime:
    """Return the time of a backup in its manifest, in its name, or else of the file."""
    if manifest is not None:
        return datetime.fromisoformat(manifest.made_at).astimezone(UTC)
    match = NAME.search(path.name)
    if match and (named := time_of(match)):
        return named
    try:
        return datetime.fromtimestamp(modified, UTC)
    except (ValueError, OverflowError, OSError):
        # File systems keep times of years that a calendar does not have.
        edge = datetime.max.replace(tzinfo=UTC)
        return edge if modified > 0 else datetime.min.replace(tzinfo=UTC)


def signature_of(path: Path, database: Path) -> Signature:
    """Return the signature of a file, to notice a later change.

    Raises:
        TokenStorageError: ``bad-backup`` if it is not a regular file.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        # A name with a null byte is a ValueError.
        reason = getattr(error, "strerror", None) or "it cannot be opened"
        if isinstance(error, PermissionError):
            reason = closed_by(path) or reason
        raise _bad(path, reason, database) from error
    if not stat.S_ISREG(status.st_mode):
        raise _bad(path, "it is not a regular file", database)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _bad(path: Path, reason: str, database: Path) -> TokenStorageError:
    others = False
    with suppress(OSError):
        others = any(found.path != path for found in find_backups(database))
    return TokenStorageError(
        f"{path} cannot be restored: {reason}.",
        code="bad-backup",
        remedy="Choose another; list them with: "
        f"nextcloud-mcp-server db backups --verify -d {for_shell(database)}"
        if others
        else f"Give the path of another backup; there is none beside {database}.",
    )
