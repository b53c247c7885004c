"""Open a database that is at head for a command, beside running servers; migrate nothing."""

from __future__ import annotations

from nextcloud_mcp_server.backends.base import Database, LockedDatabase, Pool, RecoveryNeededError
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.inspect import (
    Inspection,
    VerifyKeys,
    check_before_lock,
    no_database,
)
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT


def open_at_head(
    database: Database,
    *,
    verify: VerifyKeys | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
) -> Pool:
    """Open a pool on an existing database that is at head and can be written.

    While it is open, the database counts as in use. The lock is held only to open it.

    Args:
        database: the database.
        verify: verifies the keys on what is stored.
        lock_timeout: seconds to wait for the lock.

    Raises:
        TokenStorageError: ``upgrade-pending`` if a start would change the schema,
            ``bad-path`` if there is no database, ``read-only``, the state's own code, or what
            ``verify`` raises. Nothing was changed, but for a crashed writer's journal, which
            may have been rolled back.
    """
    database.check()
    database.require_trusted()
    if not database.inspect().exists:
        raise no_database(database)
    check_before_lock(database, require_at_head, verify=verify)
    try:
        with database.lock(lock_timeout, shared=True) as locked:
            return _open(database, locked, verify)
    except RecoveryNeededError:
        with database.lock(lock_timeout) as locked:
            return _open(database, locked, verify)


def _open(database: Database, locked: LockedDatabase, verify: VerifyKeys | None) -> Pool:
    inspection = Inspection.of(database, locked.inspect(samples=True))
    require_at_head(inspection)
    inspection.require_usable()
    inspection.verify_keys(verify)
    locked.require_writable()
    # Under the lock, so that no restore comes between.
    hold = database.hold()
    return database.open_pool(inspection.snapshot.journal_mode, hold, opened=database.identity())


def require_at_head(inspection: Inspection) -> None:
    """Fail unless a start would change nothing in the schema.

    Raises:
        TokenStorageError: ``upgrade-pending``, or the state's own code.
    """
    inspection.accepted()
    if inspection.ready:
        return
    database = inspection.database
    raise TokenStorageError(
        f"{database} is not at head: an upgrade is pending; nothing was changed.",
        code="upgrade-pending",
        remedy="Upgrade it first, then run the command again: nextcloud-mcp-server db upgrade "
        f"{database.option}",
    )
