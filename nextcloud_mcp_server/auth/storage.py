"""The token store: refresh tokens, the other concerns as attributes, opening and closing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from nextcloud_mcp_server import forks  # noqa: F401 - first: a fork waits for the rest
from nextcloud_mcp_server.auth.app_passwords import AppPasswords
from nextcloud_mcp_server.auth.audit import AuditLog
from nextcloud_mcp_server.auth.browser_sessions import BrowserSessions
from nextcloud_mcp_server.auth.context import Access, wall_clock
from nextcloud_mcp_server.auth.login_flows import LoginFlows
from nextcloud_mcp_server.auth.mcp_clients import McpClients
from nextcloud_mcp_server.auth.mcp_grants import McpGrants
from nextcloud_mcp_server.auth.mcp_tokens import McpTokens
from nextcloud_mcp_server.auth.oauth_clients import OAuthClients
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSessions
from nextcloud_mcp_server.auth.opening import open_store
from nextcloud_mcp_server.auth.profiles import Profiles
from nextcloud_mcp_server.auth.refresh_tokens import RefreshToken, RefreshTokens
from nextcloud_mcp_server.concurrency import TaskLock
from nextcloud_mcp_server.crypto.key import associated_data
from nextcloud_mcp_server.secret import hidden
from nextcloud_mcp_server.settings import absolute_database

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nextcloud_mcp_server.backends.keys import RegisteredKey
    from nextcloud_mcp_server.filesystem.server_url import ServerUrl
    from nextcloud_mcp_server.migrate.startup import Outcome
    from nextcloud_mcp_server.settings import Settings

__all__ = ["RefreshToken", "RefreshTokenStorage"]


class RefreshTokenStorage(RefreshTokens):
    """The token store. Opening it migrates its database to the right schema.

    Tasks may share it, also those of several event loops. A process that is forked while it is
    open cannot use it before it calls :meth:`initialize` again.

    Args:
        database: a path or a URL (``postgresql://...`` or ``sqlite:///...``); None for the one in
            the settings. A relative path is made absolute here.
        encryption_key: one key, or several, newest first: all decrypt. The first encrypts in a new
            database; later the database says which one does. None for those of the settings.
        settings: None to read them from the environment.
        clock: returns seconds since 1970, for every time that is written or compared. None for
            ``time.time``, looked up at each call.
    """

    # No __dict__: vars() would show the keys.
    __slots__ = (
        "__weakref__",
        "_database",
        "_keys",
        "_opening",
        "_outcome",
        "_process",
        "_settings",
        "app_passwords",
        "audit",
        "browser_sessions",
        "login_flows",
        "mcp_clients",
        "mcp_grants",
        "mcp_tokens",
        "oauth_clients",
        "oauth_sessions",
        "profiles",
    )

    def __init__(
        self,
        database: str | os.PathLike[str] | ServerUrl | None = None,
        *,
        encryption_key: str | bytes | Sequence[str | bytes] | None = None,
        settings: Settings | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._database = absolute_database(database)
        encryption_key = hidden(encryption_key)
        self._keys = encryption_key
        self._settings = settings
        self._outcome: Outcome | None = None
        self._process = 0
        # Held by initialize() and close(), so that two calls at once open one pool.
        self._opening = TaskLock()
        access = Access(clock or wall_clock)
        super().__init__(access)
        self.profiles = Profiles(access)
        self.app_passwords = AppPasswords(access)
        self.oauth_clients = OAuthClients(access)
        self.oauth_sessions = OAuthSessions(access)
        self.login_flows = LoginFlows(access)
        self.browser_sessions = BrowserSessions(access)
        self.mcp_clients = McpClients(access)
        self.mcp_grants = McpGrants(access)
        self.mcp_tokens = McpTokens(access)
        self.audit = AuditLog(access)

    @property
    def outcome(self) -> Outcome | None:
        """The result of the last start; None before the first."""
        return self._outcome

    async def initialize(self) -> None:
        """Migrate the database to head under its lock, then open it. Idempotent.

        Raises:
            TokenStorageError: the start failed; the database is unchanged.
        """
        with await self._opening.acquire():
            # A forked child has a copy of the parent's store, and opens one of its own.
            if self._access.is_open and self._process == os.getpid():
                return
            opened = await open_store(self._database, self._keys, self._settings)
            self._outcome = opened.outcome
            # The settings may name another file if the working directory has changed since.
            self._database = self._outcome.database
            self._process = os.getpid()
            self._access.open(
                opened.pool, opened.keyring, opened.audit_retention_days, opened.reload
            )

    async def close(self) -> None:
        """Refuse new work and close the database. Safe to call twice."""
        with await self._opening.acquire():
            pool = self._access.close()
            if pool is not None:
                await pool.close()
                self._access.forget_keys()

    async def connect(self) -> None:
        """Open the first connection now, as a server does, and not with the first call.

        What is open is saved when the store is closed, even if the file was deleted meanwhile.

        Raises:
            TokenStorageError: ``not-open``, ``replaced`` or ``no-thread``.
        """
        await self._access.read(lambda _: None)

    def check(self) -> None:
        """Check that the open database is still the one at its path.

        Raises:
            TokenStorageError: ``replaced`` if it was moved, deleted or replaced; ``not-open``.
        """
        self._access.check()

    def require_primary(self, known: Sequence[RegisteredKey]) -> None:
        """Check that a given key is the primary one of the registered keys ``known``, if any.

        If none is, the key file is read again first.

        Raises:
            TokenStorageError: ``wrong-key``; ``not-open``.
        """
        self._access.require_primary(known)

    def observe(self, observer: Callable[[str, float], object] | None) -> None:
        """Call ``observer`` after transactions with ``read`` or ``write``, and their seconds.

        Every write is observed, and one of eight reads.

        Args:
            observer: called in the event loop of the caller; it must not raise. None for none.
        """
        self._access.observe(observer)

    def derived_keys(self, purpose: str) -> list[bytes]:
        """Return a key of 32 bytes for another purpose from each encryption key, newest first.

        Raises:
            TokenStorageError: ``not-open``, also if no key was given.
        """
        message = associated_data("derived key", purpose)
        return [key.authenticate(message) for key in self._access.keyring.keys]

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        # Not the database: a URL may hold a password.
        return f"<RefreshTokenStorage {'open' if self._access.is_open else 'closed'}>"

    async def store_user_profile(self, user_id: str, profile: Mapping[str, Any]) -> bool:
        """Store the profile with the user's refresh token; False if there is no token.

        Raises:
            TokenStorageError: ``bad-input``: not a dict that JSON can represent.
        """
        profile = hidden(profile)
        return await self.profiles.store(user_id, profile)

    async def get_user_profile(self, user_id: str) -> dict[str, Any] | None:
        """Return the user's profile, or None. ``profiles.get`` also returns when it was cached.

        Raises:
            TokenStorageError: ``unreadable`` if the stored value is not a JSON object.
        """
        cached = await self.profiles.get(user_id)
        return None if cached is None else cached.profile
