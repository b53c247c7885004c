"""Make a verified backup of a database on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite.inspect import HotJournalError, check_pages, look
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.change import real_path
from nextcloud_mcp_server.migrate.inspect import (
    examine,
    known_history,
)
from nextcloud_mcp_server.migrate.plan import Finding, State, refusal
from nextcloud_mcp_server.migrate.startup import look_under_lock
from nextcloud_mcp_server.progress import ProgressCallback, reporting, to_log
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT


def back_up(
    database: Path,
    target: Path | None = None,
    *,
    keys: Sequence[str] | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    listener: ProgressCallback | None = None,
) -> Path:
    """Make a verified backup of a database, live or not, and return its path.

    Only where a crashed writer left a journal, which nobody can read past, is the lock
    taken and the journal rolled back first, as a start would do.

    Args:
        database: the database file.
        target: where the backup is to lie (default: beside the database, under a name
            with time and revision that is never pruned).
        keys: fingerprints of the keys at hand, for the manifest.
        lock_timeout: seconds to wait for the lock.
        listener: hears how far it is (default: the log).

    Raises:
        TokenStorageError: ``bad-path`` where there is no database or the target is taken;
            the state's code for a damaged or foreign file; ``backup-failed``.
    """
    database = real_path(database)
    report = examine(database)
    damaged = {State.CORRUPT, State.NOT_A_DATABASE, State.FOREIGN}
    if report.refusal and report.finding.state in damaged:
        raise report.refusal
    if not report.exists or not report.journal_mode:
        raise TokenStorageError(
            f"There is no database at {database} to back up.",
            code="bad-path",
            remedy="Give the path of the token database with -d.",
        )
    try:
        look(database)
    except HotJournalError:
        with guard(database, lock_timeout) as held:
            look_under_lock(database, held)
    revision = report.finding.recorded
    target = target or backups.backup_path(database, revision, "manual")
    with reporting(listener or to_log(database)) as say:
        try:
            return backups.make_backup(database, target, kind="manual", keys=keys, report=say)
        except TokenStorageError as error:
            # A look reads the schema only: damage further in is met by the copy.
            if error.code != "backup-failed" or not (damage := check_pages(database)):
                raise
            finding = Finding(State.CORRUPT, reason=damage)
            raise refusal(finding, known_history(), database) from error
