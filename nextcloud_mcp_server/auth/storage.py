"""The token store: opened once, then refresh tokens here and the other concerns beside it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self

from nextcloud_mcp_server.auth.app_passwords import AppPasswords
from nextcloud_mcp_server.auth.audit import AuditLog
from nextcloud_mcp_server.auth.browser_sessions import BrowserSessions
from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.auth.login_flows import LoginFlows
from nextcloud_mcp_server.auth.oauth_clients import OAuthClients
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSessions
from nextcloud_mcp_server.auth.opening import open_store
from nextcloud_mcp_server.auth.profiles import Profiles
from nextcloud_mcp_server.auth.refresh_tokens import RefreshToken, RefreshTokens

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from nextcloud_mcp_server.migrate.startup import Outcome
    from nextcloud_mcp_server.settings import Settings

__all__ = ["RefreshToken", "RefreshTokenStorage"]


class RefreshTokenStorage:
    """Grants, kept in a database that brings itself to the right schema when it is opened.

    Safe to share between the tasks of one event loop.

    Args:
        database: a path, an SQLAlchemy URL, or None for what the settings say.
        encryption_key: one Fernet key, or several, newest first: the first seals, all
            open. None for what the settings say.
        settings: None to read them from the environment.
        clock: seconds since 1970, for every time that is written or compared.
    """

    # No __dict__: vars() of a storage would show the keys it was given.
    __slots__ = (
        "__weakref__",
        "_access",
        "_database",
        "_keys",
        "_outcome",
        "_settings",
        "_tokens",
        "_turn",
        "app_passwords",
        "audit",
        "browser_sessions",
        "login_flows",
        "oauth_clients",
        "oauth_sessions",
        "profiles",
    )

    def __init__(
        self,
        database: str | os.PathLike[str] | None = None,
        *,
        encryption_key: str | bytes | Sequence[str | bytes] | None = None,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = encryption_key
        self._settings = settings
        self._outcome: Outcome | None = None
        # Opening and closing take turns; initialize() called twice at once opens once.
        self._turn = asyncio.Lock()
        self._access = access = Access(clock)
        self._tokens = RefreshTokens(access)
        self.profiles = Profiles(access)
        self.app_passwords = AppPasswords(access)
        self.oauth_clients = OAuthClients(access)
        self.oauth_sessions = OAuthSessions(access)
        self.login_flows = LoginFlows(access)
        self.browser_sessions = BrowserSessions(access)
        self.audit = AuditLog(access)

    @property
    def outcome(self) -> Outcome | None:
        """What the last start did to the database; None before the first."""
        return self._outcome

    async def initialize(self) -> None:
        """Bring the database to head under its lock, then open it. Idempotent.

        Raises:
            TokenStorageError: the start was refused or failed; the database is as it was.
        """
        async with self._turn:
            if self._access.is_open:
                return
            opened = await open_store(self._database, self._keys, self._settings)
            self._outcome = opened.outcome
            self._access.open(opened.pool, opened.keyring)

    async def close(self) -> None:
        """Refuse new work and close the database. Safe to call twice."""
        async with self._turn:
            pool = self._access.shut()
            if pool is not None:
                await pool.close()
                self._access.forget_keys()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        # Not the database: a URL may hold a password.
        return f"<RefreshTokenStorage {'open' if self._access.is_open else 'closed'}>"

    async def store_refresh_token(
        self,
        user_id: str,
        refresh_token: str,
        *,
        expires_at: int | None = None,
        scopes: Sequence[str] | None = None,
        flow_type: str = "hybrid",
        token_audience: str = "nextcloud",  # noqa: S107 - an audience, no secret
        provisioned_at: int | None = None,
        provisioning_client_id: str | None = None,
    ) -> None:
        """Keep a user's refresh token, sealed; returns after a durable commit.

        Storing again keeps ``created_at`` and the profile, and replaces the rest.

        Args:
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            refresh_token: up to 1 MiB.
            expires_at: whole seconds since 1970; None for a token that does not expire.
            scopes: what was granted. An empty list is kept as None.
            flow_type: ``hybrid``, ``flow1`` or ``flow2``.
            token_audience: whom the token is for: ``nextcloud``, ``mcp-server``.
            provisioned_at: whole seconds since 1970; for ``flow2`` now, where not given.
            provisioning_client_id: what started the flow.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        await self._tokens.store(
            user_id,
            refresh_token,
            expires_at=expires_at,
            scopes=scopes,
            flow_type=flow_type,
            token_audience=token_audience,
            provisioned_at=provisioned_at,
            provisioning_client_id=provisioning_client_id,
        )

    async def get_refresh_token(self, user_id: str) -> RefreshToken | None:
        """The user's refresh token, expired or not, or None where there is none.

        Raises:
            TokenStorageError: ``undecryptable`` or ``unreadable``: it is there and cannot
                be read, which is not absence.
        """
        return await self._tokens.get(user_id)

    async def delete_refresh_token(self, user_id: str) -> bool:
        """Delete the user's refresh token and profile; False where there was none."""
        return await self._tokens.delete(user_id)

    async def list_user_ids(self) -> list[str]:
        """The users who have a refresh token, expired or not, in order of code points."""
        return await self._tokens.users()

    async def delete_expired_refresh_tokens(self) -> int:
        """Delete every refresh token whose time is over; how many there were."""
        return await self._tokens.delete_expired()

    async def store_user_profile(self, user_id: str, profile: Mapping[str, Any]) -> bool:
        """Keep the profile beside the user's refresh token; False where there is no token.

        Raises:
            TokenStorageError: ``bad-input``: not a dict that JSON can hold.
        """
        return await self.profiles.store(user_id, profile)

    async def get_user_profile(self, user_id: str) -> dict[str, Any] | None:
        """The user's profile, or None. When it was cached: ``profiles.get``.

        Raises:
            TokenStorageError: ``unreadable`` when what is stored is not a JSON object.
        """
        found = await self.profiles.get(user_id)
        return None if found is None else found.profile
