"""Refresh tokens: one per user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import bindparam, delete, select

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Clock, Concern, Expiring, from_row
from nextcloud_mcp_server.auth.context import wall_clock
from nextcloud_mcp_server.auth.secrets import Reading
from nextcloud_mcp_server.auth.statements import expired, in_row, rows_with, upsert
from nextcloud_mcp_server.backends.base import Row
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.schema.tables import refresh_tokens
from nextcloud_mcp_server.secret import hidden

_c: Final = refresh_tokens.c
_TOKEN: Final = secrets_of("refresh_tokens")["encrypted_token"]

# The profile belongs to another concern: it is not read with the token, and storing a token
# again keeps it.
_PROFILE: Final = ("user_profile", "profile_cached_at")
_STORE: Final = upsert(refresh_tokens, without=_PROFILE)
_GET: Final = select(*(c for c in _c if c.name not in _PROFILE), in_row(_c.user_id)).where(
    _c.user_id == bindparam("user_id")
)
_USERS: Final = rows_with(_c.user_id, _c.user_id)
_EXPIRED: Final = expired(_c.user_id, _c.expires_at, _c.user_id)
_DELETE: Final = delete(refresh_tokens).where(_c.user_id == bindparam("user_id"))
_DELETE_EXPIRED: Final = _DELETE.where(_c.expires_at <= bindparam("now"))


@dataclass(frozen=True, slots=True)
class RefreshToken(Expiring):
    """One user's grant. Times are whole seconds since 1970; the repr hides the token."""

    user_id: str
    token: str = field(repr=False)
    expires_at: int | None
    scopes: tuple[str, ...] | None
    flow_type: str
    token_audience: str
    provisioned_at: int | None
    provisioning_client_id: str | None
    created_at: int
    updated_at: int
    _clock: Clock = field(default=wall_clock, repr=False, compare=False)


class RefreshTokens(Concern):
    """The refresh tokens of all users."""

    __slots__ = ()

    _table = "refresh_tokens"
    _auth_method = "offline_access"

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
        """Encrypt and store a user's refresh token; returns after a durable commit.

        Storing again keeps ``created_at`` and the profile, and replaces the rest.

        Args:
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            refresh_token: up to 1 MiB.
            expires_at: whole seconds since 1970; None for a token that does not expire.
            scopes: the granted scopes. An empty list is stored as None. The scopes of a token that
                was read are stored as they are, also those that are refused today.
            flow_type: ``hybrid``, ``flow1`` or ``flow2``.
            token_audience: the audience: ``nextcloud``, ``mcp-server``.
            provisioned_at: whole seconds since 1970; None for now if the flow is ``flow2``.
            provisioning_client_id: the client that started the flow.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        refresh_token = hidden(refresh_token)
        now = self._access.now()
        provisioned_at = valid.optional_seconds(provisioned_at, "provisioned_at")
        if provisioned_at is None and flow_type == "flow2":
            provisioned_at = now
        row = {
            "user_id": valid.user_id(user_id),
            "expires_at": valid.optional_seconds(expires_at, "expires_at"),
            "created_at": now,
            "updated_at": now,
            "flow_type": valid.flow_type(flow_type),
            "token_audience": valid.text(token_audience, "token_audience"),
            "provisioned_at": provisioned_at,
            "provisioning_client_id": valid.optional_text(
                provisioning_client_id, "provisioning_client_id"
            ),
            "scopes": values.json_list(valid.listed_scopes(scopes) or None),
            "encrypted_token": valid.secret(refresh_token, "refresh_token"),
        }
        await self._write(_STORE, row, "store_refresh_token", user_id, at=now)

    async def get_refresh_token(self, user_id: str) -> RefreshToken | None:
        """Return the user's refresh token, expired or not, or None.

        Raises:
            TokenStorageError: ``undecryptable`` or ``unreadable`` if there is a token that
                cannot be read.
        """
        return await self._get(_GET, {"user_id": valid.user_id(user_id)}, _token)

    async def delete_refresh_token(self, user_id: str) -> bool:
        """Delete the user's refresh token and profile; False if there was none."""
        key = {"user_id": valid.user_id(user_id)}
        return await self._write(_DELETE, key, "delete_refresh_token", user_id)

    async def list_user_ids(self) -> list[str]:
        """Return the users who have a refresh token, expired or not, sorted by code points."""
        rows = await self._access.read(lambda connection: connection.all(_USERS))
        # Sorted here, because the order of a database depends on its collation.
        return sorted(row.user_id for row in rows)

    async def delete_expired_refresh_tokens(self) -> int:
        """Delete every expired refresh token; return how many there were."""
        return await self._delete_all(_EXPIRED, _DELETE_EXPIRED, "delete_expired_refresh_token")


def _token(row: Row, reading: Reading) -> RefreshToken:
    of = f"of user {row.user_id!r}"
    return from_row(
        RefreshToken,
        row,
        token=reading.secret(row, _TOKEN, of),
        expires_at=values.read_optional_seconds(row.expires_at, f"refresh_tokens.expires_at {of}"),
        scopes=values.read_scopes(row.scopes, f"refresh_tokens.scopes {of}"),
        # In an old row the columns may be NULL, which means their defaults.
        flow_type=row.flow_type or "hybrid",
        token_audience=row.token_audience or "nextcloud",
        _clock=reading.clock,
    )
