"""Refresh tokens: the statements, and what a row is to a caller."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, select

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.audit import record
from nextcloud_mcp_server.auth.deletion import delete_expired, delete_one
from nextcloud_mcp_server.auth.statements import in_row, upsert
from nextcloud_mcp_server.schema.tables import refresh_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row

_METHOD: Final = "offline_access"
_c: Final = refresh_tokens.c

# Not the profile: it is another concern's, and storing a token again keeps it.
_STORE: Final = upsert(
    refresh_tokens,
    "user_id",
    "encrypted_token",
    "expires_at",
    "created_at",
    "updated_at",
    "flow_type",
    "token_audience",
    "provisioned_at",
    "provisioning_client_id",
    "scopes",
)
_GET: Final = select(
    _c.user_id,
    _c.encrypted_token,
    _c.expires_at,
    _c.created_at,
    _c.updated_at,
    _c.flow_type,
    _c.token_audience,
    _c.provisioned_at,
    _c.provisioning_client_id,
    _c.scopes,
    in_row(_c.user_id),
).where(_c.user_id == bindparam("user_id"))
# Text keys made by early releases may be NULL: nobody's row.
_USERS: Final = select(_c.user_id).where(_c.user_id.is_not(None))
_EXPIRED: Final = _USERS.where(_c.expires_at <= bindparam("now"))
_DELETE: Final = delete(refresh_tokens).where(_c.user_id == bindparam("user_id"))
_DELETE_EXPIRED: Final = _DELETE.where(_c.expires_at <= bindparam("now"))


@dataclass(frozen=True, slots=True)
class RefreshToken:
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
    _clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether its last second has come, now. A token without ``expires_at`` never is."""
        return self.expires_at is not None and self.expires_at <= self._clock()


class RefreshTokens:
    """The refresh tokens of all users; documented where the storage offers it."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def store(
        self,
        user_id: str,
        refresh_token: str,
        *,
        expires_at: int | None,
        scopes: Sequence[str] | None,
        flow_type: str,
        token_audience: str,
        provisioned_at: int | None,
        provisioning_client_id: str | None,
    ) -> None:
        """See :meth:`RefreshTokenStorage.store_refresh_token`."""
        access, now = self._access, self._access.now()
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
            "scopes": values.json_list_or_null(valid.scopes(scopes)),
            "encrypted_token": access.seal(valid.secret(refresh_token, "refresh_token")),
        }

        def unit(connection: Connection) -> None:
            connection.run(_STORE, row)
            record(connection, access, "store_refresh_token", user_id, at=now, auth_method=_METHOD)

        await access.write(unit)

    async def get(self, user_id: str) -> RefreshToken | None:
        """See :meth:`RefreshTokenStorage.get_refresh_token`."""
        access = self._access
        key = {"user_id": valid.user_id(user_id)}

        def unit(connection: Connection) -> RefreshToken | None:
            row = connection.first(_GET, key)
            # Opened here, off the event loop: that takes longer than the reading.
            return None if row is None else _token(row, access)

        return await access.read(unit)

    async def delete(self, user_id: str) -> bool:
        """See :meth:`RefreshTokenStorage.delete_refresh_token`."""
        return await delete_one(
            self._access,
            _DELETE,
            {"user_id": valid.user_id(user_id)},
            event="delete_refresh_token",
            user_id=user_id,
            auth_method=_METHOD,
        )

    async def users(self) -> list[str]:
        """See :meth:`RefreshTokenStorage.list_user_ids`."""
        rows = await self._access.read(lambda connection: connection.all(_USERS))
        # Sorted here: the order of a database depends on its collation.
        return sorted(row.user_id for row in rows)

    async def delete_expired(self) -> int:
        """See :meth:`RefreshTokenStorage.delete_expired_refresh_tokens`."""
        return await delete_expired(
            self._access,
            _EXPIRED,
            _DELETE_EXPIRED,
            event="delete_expired_refresh_token",
            auth_method=_METHOD,
        )


def _token(row: Row, access: Access) -> RefreshToken:
    of = f"of user {row.user_id!r}"
    values.check_row(row.user_id, row.own, "refresh_tokens")
    return RefreshToken(
        user_id=row.user_id,
        token=access.unseal(row.encrypted_token, f"refresh_tokens.encrypted_token {of}"),
        expires_at=values.read_optional_seconds(row.expires_at, f"refresh_tokens.expires_at {of}"),
        scopes=values.read_json_list(row.scopes, f"refresh_tokens.scopes {of}"),
        # The columns may be NULL; then their defaults say what was meant.
        flow_type=row.flow_type or "hybrid",
        token_audience=row.token_audience or "nextcloud",
        provisioned_at=row.provisioned_at,
        provisioning_client_id=row.provisioning_client_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        _clock=access.clock,
    )
