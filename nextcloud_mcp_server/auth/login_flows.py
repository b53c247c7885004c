"""Running login flows (Nextcloud's Login Flow v2): one per user, until done or expired."""

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
from nextcloud_mcp_server.auth.statements import expired, in_row, upsert
from nextcloud_mcp_server.backends.base import Row
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.schema.tables import login_flow_sessions
from nextcloud_mcp_server.secret import hidden

_c: Final = login_flow_sessions.c
_POLL_TOKEN: Final = secrets_of("login_flow_sessions")["encrypted_poll_token"]

_STORE: Final = upsert(login_flow_sessions)
_GET: Final = select(*_c, in_row(_c.user_id)).where(_c.user_id == bindparam("user_id"))
_EXPIRED: Final = expired(_c.user_id, _c.expires_at, _c.user_id)
_DELETE: Final = delete(login_flow_sessions).where(_c.user_id == bindparam("user_id"))
_DELETE_EXPIRED: Final = _DELETE.where(_c.expires_at <= bindparam("now"))


@dataclass(frozen=True, slots=True)
class LoginFlow(Expiring):
    """A running login flow; the repr hides the poll token. Times are whole seconds."""

    user_id: str
    poll_token: str = field(repr=False)
    poll_endpoint: str
    requested_scopes: tuple[str, ...] | None
    created_at: int
    expires_at: int
    _clock: Clock = field(default=wall_clock, repr=False, compare=False)


class LoginFlows(Concern):
    """The login flows of all users, with encrypted poll tokens."""

    _table = "login_flow_sessions"
    _auth_method = "login_flow"

    async def store(
        self,
        user_id: str,
        poll_token: str,
        poll_endpoint: str,
        *,
        expires_at: int,
        requested_scopes: Sequence[str] | None = None,
    ) -> None:
        """Store a new flow of the user, which replaces the previous one.

        Args:
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            poll_token: up to 1 MiB.
            poll_endpoint: where to poll.
            expires_at: whole seconds since 1970.
            requested_scopes: an empty list is stored as None.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        poll_token = hidden(poll_token)
        now = self._access.now()
        scopes = valid.listed_scopes(requested_scopes, "requested_scopes")
        row = {
            "user_id": valid.user_id(user_id),
            "poll_endpoint": valid.text(poll_endpoint, "poll_endpoint"),
            "requested_scopes": values.json_list(scopes or None),
            "created_at": now,
            "expires_at": valid.seconds(expires_at, "expires_at"),
            "encrypted_poll_token": valid.secret(poll_token, "poll_token"),
        }
        await self._write(_STORE, row, "store_login_flow", user_id, at=now)

    async def get(self, user_id: str) -> LoginFlow | None:
        """Return the user's flow, expired or not, or None.

        Raises:
            TokenStorageError: ``undecryptable`` or ``unreadable``.
        """
        return await self._get(_GET, {"user_id": valid.user_id(user_id)}, _flow)

    async def delete(self, user_id: str) -> bool:
        """Delete the user's flow; False if there was none."""
        key = {"user_id": valid.user_id(user_id)}
        return await self._write(_DELETE, key, "delete_login_flow", user_id)

    async def delete_expired(self) -> int:
        """Delete every expired flow; return how many there were."""
        return await self._delete_all(_EXPIRED, _DELETE_EXPIRED, "delete_expired_login_flow")


def _flow(row: Row, reading: Reading) -> LoginFlow:
    of = f"of user {row.user_id!r}"
    return from_row(
        LoginFlow,
        row,
        poll_token=reading.secret(row, _POLL_TOKEN, of),
        requested_scopes=values.read_scopes(
            row.requested_scopes, f"login_flow_sessions.requested_scopes {of}"
        ),
        expires_at=values.read_seconds(row.expires_at, f"login_flow_sessions.expires_at {of}"),
        _clock=reading.clock,
    )
