"""The context of the concerns: the open pool, the key ring, the clock and the host name."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar
from weakref import finalize

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.crypto.registration import given_primary
from nextcloud_mcp_server.errors import TokenStorageError, not_open

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nextcloud_mcp_server.backends.base import Connection, Pool
    from nextcloud_mcp_server.backends.keys import RegisteredKey
    from nextcloud_mcp_server.crypto.key import Key
    from nextcloud_mcp_server.crypto.keyring import Keyring


T = TypeVar("T")

#: Of so many reads, one is observed.
SAMPLED: Final = 8

#: Seconds between two readings of the key file because of a key that is not known.
_PAUSE: Final = 1.0
#: How often a unit of work runs again because the key that encrypts was changed meanwhile.
_ATTEMPTS: Final = 5


class PromotedError(Exception):
    """Another key encrypts since this unit of work began: nothing of it is kept."""


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
        "_looked",
        "_observer",
        "_pool",
        "_primary",
        "_reads",
        "_reload",
        "acceptance",
        "audit_retention_days",
        "clock",
        "hostname",
    )

    def __init__(self, clock: Callable[[], float] = wall_clock) -> None:
        self.clock = clock
        self.hostname = socket.gethostname()
        #: The days for which entries of the audit log are kept; None for ever.
        self.audit_retention_days: int | None = None
        self.acceptance = key_registry.Acceptance()
        self._reads = 0
        self._observer: Callable[[str, float], object] | None = None
        self._pool: Pool | None = None
        #: Closes the pool if this object is collected first.
        self._forgotten: finalize[..., Access] | None = None
        self._keyring: Keyring | None = None
        #: The key that encrypted the last secret.
        self._primary: Key | None = None
        self._reload: Callable[[], Keyring | None] = lambda: None
        self._looked = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether transactions can run."""
        return self._pool is not None

    def open(
        self,
        pool: Pool,
        keyring: Keyring | None,
        audit_retention_days: int | None,
        reload: Callable[[], Keyring | None] = lambda: None,
    ) -> None:
        """Run units of work in ``pool`` from now on; without a key ring, those without secrets.

        ``reload`` reads the key file again; None if the keys do not come from one.
        """
        self._remember()
        self._forgotten = finalize(self, pool.abandon)
        # A pool closes itself at the exit.
        self._forgotten.atexit = False
        self.audit_retention_days = audit_retention_days
        self.acceptance = key_registry.Acceptance()
        self._pool, self._keyring, self._primary, self._reload = pool, keyring, None, reload

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
        self._keyring = self._primary = None

    def now(self) -> int:
        """Return whole seconds since 1970."""
        return int(self.clock())

    @property
    def has_keys(self) -> bool:
        """Whether keys were given."""
        return self._keyring is not None

    @property
    def keyring(self) -> Keyring:
        """The key ring."""
        return self._keyring or _not_open()

    def primary_key(self, connection: Connection) -> Key:
        """Return the key that encrypts, in the transaction that writes a secret.

        The last one is remembered. Who has used it calls :meth:`signing_key` before the commit.

        Raises:
            TokenStorageError: ``wrong-key``.
        """
        if self._primary is None:
            self._primary = self._known_primary(connection)
        return self._primary

    def _known_primary(self, connection: Connection) -> Key:
        with suppress(TokenStorageError):
            return key_registry.primary_key(connection, self.keyring, self.now())
        self.read_keys_again()
        return key_registry.primary_key(connection, self.keyring, self.now())

    def require_primary(self, known: Sequence[RegisteredKey]) -> None:
        """Check that a key is the primary one of ``known``, if there are any.

        Raises:
            TokenStorageError: ``wrong-key``.
        """
        if not known:
            return
        with suppress(TokenStorageError):
            given_primary(known, self.keyring)
            return
        self.read_keys_again()
        given_primary(known, self.keyring)

    def signing_key(self, name: str | None, used: Key | None) -> Key | None:
        """Return the key of this id, which encrypts now; None if it was not given.

        Raises:
            PromotedError: it is not the one that was ``used``.
        """
        if used is not None:
            if used.id == name:
                return used
            self._primary = None
            raise PromotedError
        if name is None:
            return None
        if (key := self.given(name)) is None and self.read_keys_again():
            key = self.given(name)
        return key

    def given(self, name: str) -> Key | None:
        """Return the given key of this id or fingerprint; None if there is none."""
        return None if self._keyring is None else self._keyring.get(name)

    def read_keys_again(self) -> bool:
        """Read the key file again, at most once in a second; return whether that was done.

        The keys from before stay: a file with another key by mistake must not close what is open.
        """
        now = time.monotonic()
        if now - self._looked < _PAUSE:
            return False
        self._looked = now
        keyring = self._reload()
        if keyring is not None and self._keyring is not None:
            self._keyring = keyring.joined(self._keyring)
        return keyring is not None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token store is not pickled or copied: it holds keys and open files")

    def check(self) -> None:
        """Check that the open database is the one at its place."""
        return self._pool.check() if self._pool else _not_open()

    def observe(self, observer: Callable[[str, float], object] | None) -> None:
        """Call ``observer`` after units with ``read`` or ``write``, and their seconds.

        Of the reads, which are short, one of :data:`SAMPLED` is observed.
        """
        self._observer = observer

    async def _observed(self, kind: str, unit: Awaitable[T], begun: float) -> T:
        try:
            return await unit
        finally:
            if self._observer is not None:
                self._observer(kind, time.perf_counter() - begun)

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run a read-only unit of work."""
        pool = self._pool or _not_open()
        self._reads += 1
        if self._observer is None or self._reads % SAMPLED:
            return pool.read(unit)
        return self._observed("read", pool.read(unit), time.perf_counter())

    async def write(self, unit: Callable[[Connection], T], *, again: bool = False) -> T:
        """Run a unit of work; it is durable when this returns.

        ``again`` says whether it may run twice, as for :class:`~..backends.base.Pool`.
        """
        written = self._write(unit, again=again)
        if self._observer is None:
            return await written
        return await self._observed("write", written, time.perf_counter())

    async def _write(self, unit: Callable[[Connection], T], *, again: bool) -> T:
        for _ in range(_ATTEMPTS - 1):
            with suppress(PromotedError):
                return await self._open_pool().write(unit, again=again)
        return await self._open_pool().write(unit, again=again)

    def _open_pool(self) -> Pool:
        return self._pool or _not_open()


def _not_open() -> NoReturn:
    raise not_open()
