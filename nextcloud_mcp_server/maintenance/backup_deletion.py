"""Delete old backups on request, but never the last intact one from before a change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite.backup_files import KEEP, FoundBackup, discard, surplus
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.maintenance.backups import found_backups
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT


def old_backups(
    database: Path, *, keep: int | None = None, older_than: timedelta | None = None
) -> list[FoundBackup]:
    """Return the backups beside ``database`` that a deletion would delete, oldest first.

    Backups of all kinds count, also those that a user made. Those that are kept for their worth
    (:func:`~nextcloud_mcp_server.backends.sqlite.backup_files.surplus`) are not among them.

    Args:
        keep: the number of the newest that are kept (default: 5), by their order and not by
            the clock.
        older_than: the age of those that are deleted. It is counted to the newest backup, or
            to now if that is earlier: a clock that is ahead makes nothing old.

    Raises:
        TokenStorageError: ``bad-path`` as :func:`~.backups.list_backups`.
    """
    _, found = found_backups(database)
    old = surplus(found, KEEP if keep is None else keep)
    if older_than is None or not found:
        return old
    now = min(datetime.now(UTC), found[-1].made_at)
    return [one for one in old if now - one.made_at > older_than]


def delete_backups(
    database: Path,
    agreed: Sequence[FoundBackup],
    *,
    keep: int | None = None,
    older_than: timedelta | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
) -> list[Path]:
    """Delete those of ``agreed`` that are still old, under the lock; return the deleted ones.

    No restore reads one of them meanwhile, and no migration has deleted a newer one.

    Raises:
        TokenStorageError: ``lock-timeout``; errors of the disk.
    """
    if not agreed:
        return []
    deleted = []
    with SqliteDatabase(database).lock(lock_timeout):
        names = {one.path for one in agreed}
        for one in old_backups(database, keep=keep, older_than=older_than):
            if one.path in names:
                with naming(one.path), suppress(FileNotFoundError):
                    discard(one.path)
                    deleted.append(one.path)
    return deleted
