"""The context of the concerns: the open pool, the key ring, the clock and the host name."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar
from weakref import finalize

from sqlalchemy import select

from nextcloud_mcp_server.backends.base import SAMPLE_SIZE
from nextcloud_mcp_server.errors import TokenStorageError, not_open
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.schema.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nextcloud_mcp_server.backends.base import Connection, Pool
    from nextcloud_mcp_server.crypto.keyring import Keyring


T = TypeVar("T")

_SECRETS: Final = [
    select(column).where(column.is_not(None))
    for column in (metadata.tables[table].c[name] for table, name in ENCRYPTED)
]
_SAMPLES: Final = [secrets.limit(SAMPLE_SIZE) for secrets in _SECRETS]


def wall_clock() -> float:
    """Return seconds since 1970. ``time.time`` is looked up at each call: tests replace it."""
    return time.time()


class Access:
    """The access of the concerns to the database.

    It is closed at first, so that the concerns can be created before the database is open.
    While it is closed, every use raises ``not-open``.

    Args:
        clock: returns seconds since 1970, for every time that is written or compared.
    """

    __slots__ = (
        "__weakref__",
        "_forgotten",
        "_keyring",
        "_pool",
        "audit_retention_days",
        "clock",
        "hostname",
        "key_is_verified",
    )

    def __init__(self, clock: Callable[[], float] = wall_clock) -> None:
        self.clock = clock
        self.hostname = socket.gethostname()
        #: Whether a committed secret opens with the key ring.
        self.key_is_verified = False
        #: The days for which entries of the audit log are kept; None for ever.
        self.audit_retention_days: int | None = None
        self._pool: Pool | None = None
        #: Closes the pool if this object is collected first.
        self._forgotten: finalize[..., Access] | None = None
        self._keyring: Keyring | None = None

    @property
    def is_open(self) -> bool:
        """Whether transactions can run."""
        return self._pool is not None

    def open(self, pool: Pool, keyring: Keyring | None, audit_retention_days: int | None) -> None:
        """Run units of work in ``pool`` from now on; without a key ring, those without secrets."""
        self._remember()
        self._forgotten = finalize(self, pool.abandon)
        # A pool closes itself at the exit.
        self._forgotten.atexit = False
        self.audit_retention_days = audit_retention_days
        self._pool, self._keyring, self.key_is_verified = pool, keyring, False

    def close(self) -> Pool | None:
        """Refuse new work, and return the pool for the caller to close; None if there is none.

        Work that is running needs the keys, until :meth:`forget_keys`.
        """
        self._remember()
        pool, self._pool = self._pool, None
        return pool

    def _remember(self) -> None:
        if self._forgotten is not None:
            self._forgotten.detach()
            self._forgotten = None

    def forget_keys(self) -> None:
        """Drop the key ring."""
        self._keyring = None

    def now(self) -> int:
        """Return whole seconds since 1970."""
        return int(self.clock())

    def encrypt(self, secret: str) -> bytes:
        """Encrypt with the newest key."""
        return self._keyring.encrypt(secret) if self._keyring else _not_open()

    def decrypt(self, ciphertext: bytes | str, of: str) -> str:
        """Decrypt; an ``undecryptable`` error names ``of``."""
        return self._keyring.decrypt(ciphertext, of) if self._keyring else _not_open()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token store is not pickled or copied: it holds keys and open files")

    def check(self) -> None:
        """Check that the open database is the one at its place."""
        return self._pool.check() if self._pool else _not_open()

    def require_key(self, connection: Connection) -> None:
        """Fail if there are secrets and the key ring opens none of them.

        Two servers with different keys can start on a database without secrets: the first
        secret decides. To be called in the transaction that writes a secret.

        Raises:
            TokenStorageError: ``wrong-key``.
        """
        keyring = self._keyring
        if self.key_is_verified or keyring is None:
            return
        there = False
        for statement in (*_SAMPLES, *_SECRETS):
            for [value] in connection.all(statement):
                there = True
                if keyring.can_decrypt(value):
                    return
        if there:
            raise TokenStorageError(
                "No given key opens the secrets that another server has stored; nothing was "
                "written.",
                code="wrong-key",
                remedy="Give every server the same key in TOKEN_ENCRYPTION_KEY, and restart this "
                "one.",
            )

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run a read-only unit of work."""
        return self._pool.read(unit) if self._pool else _not_open()

    def write(self, unit: Callable[[Connection], T], *, again: bool = False) -> Awaitable[T]:
        """Run a unit of work; it is durable when this returns.

        ``again`` says whether it may run twice, as for :class:`~..backends.base.Pool`.
        """
        return self._pool.write(unit, again=again) if self._pool else _not_open()


def _not_open() -> NoReturn:
    raise not_open()
