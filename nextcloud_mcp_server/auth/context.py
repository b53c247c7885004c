"""What the concerns share: the open pool, the key ring, the clock and the host name."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

from nextcloud_mcp_server.errors import TokenStorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nextcloud_mcp_server.backends.base import Connection, Pool
    from nextcloud_mcp_server.crypto.keyring import Keyring


T = TypeVar("T")


class Access:
    """The one door through which a concern reaches the database.

    It is made closed, and whoever owns it opens and closes it, so that the concerns can be
    handed out before the database is open. Used while closed, it raises ``not-open``.

    Args:
        clock: seconds since 1970, for every time that is written or compared.
    """

    __slots__ = ("_keyring", "_pool", "clock", "hostname")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.hostname = socket.gethostname()
        self._pool: Pool | None = None
        self._keyring: Keyring | None = None

    @property
    def is_open(self) -> bool:
        """Whether units of work can run."""
        return self._pool is not None

    def open(self, pool: Pool, keyring: Keyring) -> None:
        """Let units of work through to ``pool``."""
        self._pool, self._keyring = pool, keyring

    def shut(self) -> Pool | None:
        """Let nothing through any more; the pool, if there was one, is the caller's to close.

        What is under way in it still needs the keys, until :meth:`forget_keys`.
        """
        pool, self._pool = self._pool, None
        return pool

    def forget_keys(self) -> None:
        """Let go of the key ring."""
        self._keyring = None

    def now(self) -> int:
        """Whole seconds since 1970."""
        return int(self.clock())

    def seal(self, secret: str) -> bytes:
        """Encrypt with the newest key."""
        return self._keyring.seal(secret) if self._keyring else _not_open()

    def unseal(self, ciphertext: bytes | str, of: str) -> str:
        """Decrypt; raises ``undecryptable`` naming ``of``."""
        return self._keyring.open(ciphertext, of) if self._keyring else _not_open()

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run a unit of work that only reads."""
        return self._pool.read(unit) if self._pool else _not_open()

    def write(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run a unit of work; the answer comes after its durable commit."""
        return self._pool.write(unit) if self._pool else _not_open()


def _not_open() -> NoReturn:
    raise TokenStorageError(
        "The token store is not open.",
        code="not-open",
        remedy="Await initialize() first, or use it inside `async with RefreshTokenStorage(...)`.",
    )
