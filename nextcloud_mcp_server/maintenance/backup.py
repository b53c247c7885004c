"""Make a verified backup of a database on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nextcloud_mcp_server.backends.base import RecoveryNeededError
from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite.backup_files import backup_path
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.inspect import inspect_file
from nextcloud_mcp_server.backends.sqlite.integrity import check_pages
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.paths import absolute
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.plan import Finding, State, refusal
from nextcloud_mcp_server.progress import ProgressCallback, reporting, to_log
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT


def back_up(
    database: Path,
    target: Path | None = None,
    *,
    keys: Sequence[str] | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> Path:
    """Make a verified backup of a database, in use or not, and return its path.

    If a crashed writer left a journal, the lock is taken and the journal is rolled back first.

    Args:
        target: default: beside the database, under a name with time and revision that is
            never pruned.
        keys: fingerprints of the available keys, for the manifest.
        lock_timeout: in seconds.
        progress: receives updates (default: the log).

    Raises:
        TokenStorageError: ``bad-path`` if there is no database or the target exists; the
            state's code for a damaged or foreign file; ``backup-failed``.
    """
    place = SqliteDatabase(database)
    inspection, database = inspect(place), place.path
    damaged = {State.CORRUPT, State.NOT_A_DATABASE, State.FOREIGN, State.ORPHANED}
    if inspection.refusal and inspection.finding.state in damaged:
        raise inspection.refusal
    if not inspection.snapshot.journal_mode:
        raise TokenStorageError(
            f"There is no database at {database} to back up.",
            code="bad-path",
            remedy="Give the path of the token database with -d.",
        )
    try:
        inspect_file(database)
    except RecoveryNeededError:
        with place.lock(lock_timeout) as locked:
            locked.inspect()
    target = absolute(target) if target else backup_path(database, inspection.recorded, "manual")
    with reporting(progress or to_log(database)) as report:
        try:
            return backups.make_backup(database, target, kind="manual", keys=keys, report=report)
        except TokenStorageError as error:
            # The inspection reads only the schema; the copy reads the other pages too.
            if error.code != "backup-failed" or not (damage := check_pages(database)):
                raise
            finding = Finding(State.CORRUPT, reason=damage)
            raise refusal(finding, inspection.history, place) from error
