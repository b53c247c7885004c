"""Open a database at head for a change of its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.backends.base import Connection, Database, Pool
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.concurrency import run_coroutine
from nextcloud_mcp_server.crypto.keyfile import find_keyring
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.verification import naming_key_beside
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.at_head import open_at_head
from nextcloud_mcp_server.migrate.inspect import inspect, no_database
from nextcloud_mcp_server.settings import Settings

T = TypeVar("T")


class Opened(NamedTuple):
    """An open database with the given keys."""

    database: Database
    pool: Pool
    keyring: Keyring
    access: Access

    def write(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit of work in a write transaction."""

        async def run() -> T:
            return await self.pool.write(unit)

        return run_coroutine(run())


@contextmanager
def opened(settings: Settings) -> Iterator[Opened]:
    """Open the database of the settings; servers can read and write meanwhile.

    The keys are not verified: a lost primary key can be replaced, too. If the body raises
    ``wrong-key``, and the key file beside the database has the right one, the remedy names it.

    Raises:
        TokenStorageError: as :func:`~nextcloud_mcp_server.migrate.at_head.open_at_head`;
            ``key-missing`` without a key, ``malformed-key``.
    """
    database = connect(settings.database)
    # Before the keys: with a wrong path, none is beside it.
    inspection = inspect(database)
    if not inspection.exists:
        raise no_database(database)
    inspection.accepted()
    keyring = find_keyring(settings, database.location)
    if keyring is None:
        raise TokenStorageError(
            f"No encryption key was given for {database}; nothing was changed.",
            code="key-missing",
            remedy="Set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE to the keys of the "
            "servers, newest first.",
        )
    pool = open_at_head(database, lock_timeout=settings.lock_timeout)
    access = Access()
    try:
        access.open(pool, keyring, settings.audit_retention_days)
        yield Opened(database, pool, keyring, access)
    except TokenStorageError as error:
        if error.code != "wrong-key":
            raise
        now = inspect(database, samples=True)
        known = now.snapshot.keys
        raise naming_key_beside(error, now.samples, database.location, known) from error.__cause__
    finally:
        access.close()
        run_coroutine(pool.close())
