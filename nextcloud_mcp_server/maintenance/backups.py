"""List the backups beside a database, and find the newest one that can be restored.

Changes no file.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nextcloud_mcp_server.backends.sqlite.backup_files import (
    CLOCK_SKEW,
    FoundBackup,
    find_backups,
    require_trusted,
)
from nextcloud_mcp_server.backends.sqlite.manifest import read_manifest
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.maintenance.backup_check import (
    Backup,
    ChangedError,
    check_backup,
    check_size,
)
from nextcloud_mcp_server.migrate.classify import GRANTS
from nextcloud_mcp_server.progress import Reporter, silent

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A backup beside a database.

    Attributes:
        kind: ``automatic``, ``manual``, ``replaced`` or ``rescued``.
        made_at: in UTC.
        revision: None if it records none.
        grants: the number of refresh tokens in it; None if they were not counted.
        size: in bytes.
        status: ``ok``, ``no manifest``, ``changed``, ``damaged``; ``wrong-key`` if it is intact
            and no given key opens any of its secrets; ``untrusted`` if another user can have put
            it there; ``unusable`` if a start would refuse it once it is restored.
        reason: the problem; empty if there is none.
    """

    path: Path
    kind: str
    made_at: datetime
    revision: str | None
    grants: int | None
    size: int
    status: str
    reason: str = ""


class Skipped(NamedTuple):
    """A backup that was skipped, with the reason in one line."""

    path: Path
    reason: str


class Newest(NamedTuple):
    """The newest intact backup, and the newer ones that were skipped, newest first."""

    backup: Backup
    skipped: tuple[Skipped, ...]


def list_backups(
    database: Path, *, verify: bool = False, keyring: Keyring | None = None
) -> list[BackupFile]:
    """Return the backups beside ``database``, which need not exist, newest first.

    With ``verify``, read each completely, not only its manifest and its size, and try the keys,
    if any, on its secrets.

    Raises:
        TokenStorageError: ``bad-path`` if the path cannot be a database, or the folder cannot
            be read.
    """
    database, found = found_backups(database)
    backups = []
    for one in reversed(found):
        # A backup can be pruned at any moment.
        with suppress(FileNotFoundError):
            backups.append(_examine(one, database if verify else None, keyring))
    return backups


def newest_backup(
    database: Path, keyring: Keyring | None = None, report: Reporter = silent
) -> Newest:
    """Find the newest backup beside ``database`` that can be restored.

    They are read from the newest on, until one is intact. What a restore replaced is skipped.
    So are those that another user can have put there, those that a start would refuse, and one
    from the future: what made it had a wrong clock, or this process has.

    Raises:
        TokenStorageError: ``bad-backup`` if none is intact; ``wrong-key`` if no key opens the
            newest intact one: an older one would lose what the missing key opens;
            ``bad-path`` as :func:`list_backups`.
    """
    database, found = found_backups(database)
    skipped: list[Skipped] = []
    for one in reversed(found):
        if one.kind == "replaced":
            reason = f"{one.path} is what a restore replaced. To restore it, give its path."
            skipped.append(Skipped(one.path, reason))
            continue
        report(f"verifying {one.path.name}")
        try:
            require_trusted(one.path)
            backup = check_backup(one.path, database, keyring)
        except TokenStorageError as error:
            if error.code not in {"bad-backup", "orphaned", "untrusted"}:
                raise
            skipped.append(Skipped(one.path, _reason(error)))
            continue
        if backup.unusable:
            skipped.append(Skipped(one.path, _refused(backup)))
            continue
        if backup.made_at <= datetime.now(UTC) + CLOCK_SKEW:
            return Newest(backup, tuple(skipped))
        skipped.append(Skipped(one.path, _from_future(backup)))
    raise TokenStorageError(
        f"No backup beside {database} can be restored ({len(skipped)} read). The newest: "
        f"{skipped[0].reason}"
        if skipped
        else f"There is no backup beside {database} to restore.",
        code="bad-backup",
        remedy="List the backups: nextcloud-mcp-server db backups --verify -d "
        f"{for_shell(database)} (restore a copy in another folder by its path); nothing "
        "was changed.",
    )


def _reason(error: TokenStorageError) -> str:
    """Return why a backup is skipped; with the remedy if it can be used as it is."""
    return f"{error.message} {error.remedy}" if error.code == "untrusted" else error.message


def _refused(backup: Backup) -> str:
    return (
        f"{backup.path} has tables that were changed so that this program cannot use them: "
        f"{backup.unusable}. To restore it, give its path, and undo that change afterwards."
    )


def _from_future(backup: Backup) -> str:
    return (
        f"{backup.path} was made at {backup.made_at:%Y-%m-%d %H:%M:%SZ}, which is in the future: "
        "the clock was wrong then, or is wrong now. To restore it, correct the clock or give "
        "its path."
    )


def found_backups(database: Path) -> tuple[Path, list[FoundBackup]]:
    """Return the file itself, through every link, and the backups beside it, oldest first.

    Raises:
        TokenStorageError: ``bad-path`` as :func:`list_backups`.
    """
    database = files.find_database(database)
    try:
        return database, find_backups(database)
    except OSError as error:
        raise TokenStorageError(
            f"{database.parent} cannot be read ({error.strerror}).",
            code="bad-path",
            remedy="Give the path of the database with -d; its backups are searched beside it.",
        ) from error


def _examine(found: FoundBackup, database: Path | None, keyring: Keyring | None) -> BackupFile:
    """Describe one backup; read it completely if ``database``, its owner, is given."""
    path, manifest, status, reason = found.path, None, "no manifest", ""
    size = path.stat().st_size
    try:
        manifest = read_manifest(path)
        if manifest is not None:
            status = "ok"
            check_size(manifest, size)
    except (OSError, ValueError, ChangedError) as error:
        status, reason = "changed", str(error)
    revision: str | None = found.revision
    if manifest:
        revisions = manifest.revisions or ()
        revision = revisions[0] if len(revisions) == 1 else None
    grants = manifest.rows.get(GRANTS) if manifest else None
    if database and status != "changed":
        try:
            require_trusted(path)
            backup = check_backup(path, database, keyring)
        except TokenStorageError as error:
            reason = _reason(error)
            if error.code in {"wrong-key", "untrusted"}:
                status = error.code
            else:
                status = "changed" if isinstance(error.__cause__, ChangedError) else "damaged"
        else:
            revision, grants = backup.revision, backup.rows.get(GRANTS)
            if backup.unusable:
                status, reason = "unusable", _refused(backup)
    return BackupFile(
        path=path,
        kind=found.kind,
        made_at=found.made_at,
        revision=None if revision == "unversioned" else revision,
        grants=grants,
        size=size,
        status=status,
        reason=reason,
    )
