"""Open a token database: prepare it in a worker thread, verify its keys, create its pool.

Most of what a start needs is imported in that thread, so that importing the store is fast.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from nextcloud_mcp_server import forks
from nextcloud_mcp_server.concurrency import run_to_the_end
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import Hold, Pool
    from nextcloud_mcp_server.backends.keys import RegisteredKey
    from nextcloud_mcp_server.crypto.keyring import Keyring
    from nextcloud_mcp_server.crypto.verification import Samples
    from nextcloud_mcp_server.filesystem.server_url import ServerUrl
    from nextcloud_mcp_server.migrate.startup import Outcome

logger = logging.getLogger(__name__)


def _initialize_openssl(keyring: Keyring) -> None:
    """Encrypt once in this process, which initializes OpenSSL.

    A fork waits for a start. In a child that was forked during the first use, every later use
    would wait without end.
    """
    if not _initialized:
        key = keyring.keys[0]
        key.open(key.seal(b"", b""), b"")
        key.open_fernet(key.encrypt_fernet(b""))
        _initialized.append(True)


#: Has an element after the first use of OpenSSL.
_initialized: Final[list[bool]] = []


class Opened(NamedTuple):
    """An open store.

    Attributes:
        pool: runs its units of work.
        keyring: the verified keys.
        outcome: what the start did.
        audit_retention_days: for how long entries of the audit log are kept; None for ever.
        reload: reads the key file again; returns None if the keys do not come from one.
    """

    pool: Pool
    keyring: Keyring
    outcome: Outcome
    audit_retention_days: int | None
    reload: Callable[[], Keyring | None]


async def open_store(
    database: str | os.PathLike[str] | ServerUrl | None = None,
    keys: str | bytes | Sequence[str | bytes] | None = None,
    settings: Settings | None = None,
) -> Opened:
    """Prepare a database in a worker thread, then open its pool.

    Takes the arguments of :class:`~.storage.RefreshTokenStorage`.

    Raises:
        TokenStorageError: the database or the keys cannot be used; nothing is left open.
    """
    with forks.delayed:
        from nextcloud_mcp_server.backends.connect import connect  # noqa: PLC0415
        from nextcloud_mcp_server.crypto.keyfile import (  # noqa: PLC0415
            given_keyring,
            keys_of_file,
            require_trusted_key,
        )
        from nextcloud_mcp_server.crypto.verification import verified_keyring  # noqa: PLC0415

    if settings is None:
        settings = load_settings(database=database)
    elif database is not None:
        settings = settings.with_database(database)
    place = connect(settings.database)
    keyring: Keyring | None = None
    hold: Hold | None = None
    opened: Hashable = None

    def verify(samples: Samples, known: Sequence[RegisteredKey]) -> Sequence[str]:
        nonlocal keyring
        keyring = verified_keyring(keyring, samples, place.location, known)
        _initialize_openssl(keyring)
        return keyring.fingerprints

    def mark() -> None:
        # Before the lock is released: the next holder sees that a store is open.
        nonlocal hold, opened
        hold, opened = place.hold(), place.identity()

    def work(cancelled: Callable[[], bool]) -> Outcome:
        nonlocal keyring
        with forks.delayed:
            from nextcloud_mcp_server.migrate.startup import prepare  # noqa: PLC0415

            keyring = given_keyring(keys, settings)
            if keyring is None:
                require_trusted_key(place.location)
            return prepare(
                place,
                verify=verify,
                then=mark,
                lock_timeout=settings.lock_timeout,
                cancelled=cancelled,
            )

    try:
        outcome = await run_to_the_end(work, name="token-store-start")
        if keyring is None:
            raise AssertionError("a start that succeeds has a key ring")
        with forks.delayed:
            pool = place.open_pool(
                outcome.journal_mode, hold, read_only=outcome.read_only, opened=opened
            )
    except BaseException:
        # Even if it was cancelled, the start may have been done already.
        if hold is not None:
            hold.release()
        raise

    def reload() -> Keyring | None:
        try:
            return None if keys is not None else keys_of_file(settings, place.location)
        except TokenStorageError as error:
            logger.warning("The key file cannot be read again: %s", error.message)
            return None

    return Opened(pool, keyring, outcome, settings.audit_retention_days, reload)
