"""Migrate a token database from a script: synchronous functions, safe to call anywhere.

Each takes a path or an SQLite URL (default: the environment's database) and does what a
start does: lock, inspect, back up, one transaction. Inside a running event loop
the work runs in a thread with a loop of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server import forks  # noqa: F401 - first: a fork waits for the rest
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate import change
from nextcloud_mcp_server.migrate.change import Change
from nextcloud_mcp_server.migrate.guards import Guards
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.startup import Outcome, prepare
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.settings import Settings, load_settings

#: The operations of the migration that is running; only upgrade() and downgrade() may use them.
guards: Final = Guards()

Database = str | os.PathLike[str] | None


def upgrade_database(database: Database = None, revision: str = "head") -> Outcome:
    """Create, stamp and upgrade ``database`` up to ``revision``, as a start does.

    ``revision`` is an id, ``head``, or ``+N`` for N steps.

    No key is needed; if the settings have one, it is verified, as at a start.

    Raises:
        TokenStorageError: with the code of what is wrong; the file is as it was.
    """
    settings = load_settings(database=database)
    return prepare(
        connect(settings.database),
        target=None if revision == "head" else revision,
        **_options(settings),
    )


def downgrade_database(
    database: Database = None, revision: str = "-1", *, while_running: bool = False
) -> Change:
    """Go back to ``revision``: an id, ``base``, or ``-N`` for N steps; after a backup.

    The keys are verified if there are any. They are needed only for secrets that were stored at
    103 or above and go below it.

    Raises:
        TokenStorageError: with the code of what is wrong; the file is as it was. ``in-use``
            if a server is running on it, unless ``while_running`` is true.
    """
    settings = load_settings(database=database)
    options = _options(settings)
    return change.downgrade(
        connect(settings.database),
        revision,
        while_running=while_running,
        keyring=options["verify"].keyring,
        **options,
    )


def stamp_database(
    database: Database = None, revision: str = "head", *, while_running: bool = False
) -> Change:
    """Record ``revision`` without running anything; after a backup.

    The keys are verified if there are any; none is needed.

    Raises:
        TokenStorageError: ``inconsistent`` if the schema does not match it, ``in-use`` if a server
            is running on it, unless ``while_running`` is true, and others.
    """
    settings = load_settings(database=database)
    return change.stamp(
        connect(settings.database),
        get_head_revision() if revision == "head" else revision,
        while_running=while_running,
        **_options(settings),
    )


def get_current_revision(database: Database = None) -> str | None:
    """Return the revision that ``database`` records; None if it records none. Changes nothing.

    Raises:
        TokenStorageError: for a file that is damaged, foreign or no database.
    """
    inspection = inspect(connect(load_settings(database=database).database))
    if inspection.refusal and inspection.recorded is None:
        raise inspection.refusal
    return inspection.recorded


def get_head_revision() -> str:
    """Return the newest revision of this program."""
    return load_history().head


def create_migration(message: str) -> Path:
    """Write an empty migration for ``message`` into the checkout, and return its path.

    Also creates a file of test rows if the tests are there.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package, ``bad-input``.
    """
    # Alembic is imported only by those who write or run migrations.
    from nextcloud_mcp_server.authoring.create import write  # noqa: PLC0415

    return write(message).script


def _options(settings: Settings) -> dict[str, Any]:
    from nextcloud_mcp_server.crypto.verification import KeyVerifier  # noqa: PLC0415 - cryptography is heavy

    return {"verify": KeyVerifier(settings), "lock_timeout": settings.lock_timeout}
