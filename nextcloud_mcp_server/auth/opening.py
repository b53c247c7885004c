"""Open a token database: prepare it in a worker thread, prove its keys, make its pool.

What a start needs is imported by the first one, most of it in the thread that does the work:
whoever imports the store does not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.concurrency import run_to_the_end
from nextcloud_mcp_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import Pool
    from nextcloud_mcp_server.crypto.keyfile import Samples
    from nextcloud_mcp_server.crypto.keyring import Keyring
    from nextcloud_mcp_server.filesystem.flock import Hold
    from nextcloud_mcp_server.migrate.startup import Outcome


@dataclass(frozen=True)
class OpenStore:
    """An open token database: its pool, its keys and what the start did."""

    pool: Pool
    keyring: Keyring
    outcome: Outcome


async def open_store(
    database: str | os.PathLike[str] | None = None,
    keys: str | bytes | Sequence[str | bytes] | None = None,
    settings: Settings | None = None,
) -> OpenStore:
    """Prepare a database in a worker thread, then open its pool.

    Args:
        database: a path or an SQLite URL (default: the settings').
        keys: one Fernet key or several, newest first (default: the settings').
        settings: frozen settings (default: the environment's).

    Raises:
        TokenStorageError: the database or the keys cannot be used; nothing is left open.
    """
    from nextcloud_mcp_server.crypto.keyfile import given_keyring  # noqa: PLC0415
    from nextcloud_mcp_server.crypto.keyfile import verified_keyring as settle  # noqa: PLC0415

    if settings is None:
        settings = load_settings(database=database)
    elif database is not None:
        settings = settings.with_database(database)
    keyring = given_keyring(keys, settings)

    def unlock(samples: Samples) -> Sequence[str]:
        from nextcloud_mcp_server.filesystem.files import follow  # noqa: PLC0415

        nonlocal keyring
        keyring = settle(keyring, samples, follow(settings.database))
        return keyring.fingerprints

    hold: Hold | None = None

    def stay(database: Path) -> None:
        from nextcloud_mcp_server.backends.sqlite import in_use  # noqa: PLC0415

        # Before the lock is given back: whoever gets it next sees that somebody is here.
        nonlocal hold
        hold = in_use.hold(database)

    def work(cancelled: Callable[[], bool]) -> Outcome:
        from nextcloud_mcp_server.migrate.startup import prepare  # noqa: PLC0415

        return prepare(
            settings.database,
            unlock=unlock,
            then=stay,
            lock_timeout=settings.lock_timeout,
            cancelled=cancelled,
        )

    try:
        outcome = await run_to_the_end(work, name="token-store-start")
        if keyring is None:
            raise AssertionError("a start that succeeds has settled on its keys")
        from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool  # noqa: PLC0415

        pool = SqlitePool(outcome.database, outcome.journal_mode, hold, read_only=outcome.read_only)
    except BaseException:
        # Cancelled, it may be that the start was already done.
        if hold is not None:
            hold.release()
        raise
    return OpenStore(pool, keyring, outcome)
