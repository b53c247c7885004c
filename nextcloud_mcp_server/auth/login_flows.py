"""Login flows under way (Nextcloud's Login Flow v2): one a user, until polled or too late."""

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
from nextcloud_mcp_server.schema.tables import login_flow_sessions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row

_METHOD: Final = "login_flow"
_c: Final = login_flow_sessions.c

_STORE: Final = upsert(
    login_flow_sessions,
    "user_id",
    "encrypted_poll_token",
    "poll_endpoint",
    "requested_scopes",
    "created_at",
    "expires_at",
)
_GET: Final = select(
    _c.user_id,
    _c.encrypted_poll_token,
    _c.poll_endpoint,
    _c.requested_scopes,
    _c.created_at,
    _c.expires_at,
    in_row(_c.user_id),
).where(_c.user_id == bindparam("user_id"))
_EXPIRED: Final = select(_c.user_id).where(
    _c.user_id.is_not(None), _c.expires_at <= bindparam("now")
)
_DELETE: Final = delete(login_flow_sessions).where(_c.user_id == bindparam("user_id"))
_DELETE_EXPIRED: Final = _DELETE.where(_c.expires_at <= bindparam("now"))


@dataclass(frozen=True, slots=True)
class LoginFlow:
    """A login flow under way; the repr hides the poll token. Times are whole seconds."""

    user_id: str
    poll_token: str = field(repr=False)
    poll_endpoint: str
    requested_scopes: tuple[str, ...] | None
    created_at: int
    expires_at: int
    _clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether its last second has come, now."""
        return self.expires_at <= self._clock()


class LoginFlows:
    """The login flows of all users, their poll tokens sealed."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def store(
        self,
        user_id: str,
        poll_token: str,
        poll_endpoint: str,
        *,
        expires_at: int,
        requested_scopes: Sequence[str] | None = None,
    ) -> None:
        """Begin a flow for the user, in place of one that was under way.

        Args:
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            poll_token: up to 1 MiB.
            poll_endpoint: where to poll.
            expires_at: whole seconds since 1970.
            requested_scopes: what is asked for. An empty list is kept as None.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        access, now = self._access, self._access.now()
        scopes = valid.scopes(requested_scopes, "requested_scopes")
        row = {
            "user_id": valid.user_id(user_id),
            "poll_endpoint": valid.text(poll_endpoint, "poll_endpoint"),
            "requested_scopes": values.json_list_or_null(scopes),
            "created_at": now,
            "expires_at": valid.seconds(expires_at, "expires_at"),
            "encrypted_poll_token": access.seal(valid.secret(poll_token, "poll_token")),
        }

        def unit(connection: Connection) -> None:
            connection.run(_STORE, row)
            record(connection, access, "store_login_flow", user_id, at=now, auth_method=_METHOD)

        await access.write(unit)

    async def get(self, user_id: str) -> LoginFlow | None:
        """The user's flow, expired or not, or None where there is none.

        Raises:
            TokenStorageError: ``undecryptable`` or ``unreadable``.
        """
        access = self._access
        key = {"user_id": valid.user_id(user_id)}

        def unit(connection: Connection) -> LoginFlow | None:
            row = connection.first(_GET, key)
            # Opened here, off the event loop: that takes longer than the reading.
            return None if row is None else _flow(row, access)

        return await access.read(unit)

    async def delete(self, user_id: str) -> bool:
        """End the user's flow; False where there was none."""
        return await delete_one(
            self._access,
            _DELETE,
            {"user_id": valid.user_id(user_id)},
            event="delete_login_flow",
            user_id=user_id,
            auth_method=_METHOD,
        )

    async def delete_expired(self) -> int:
        """Delete every flow whose time is over; how many there were."""
        return await delete_expired(
            self._access,
            _EXPIRED,
            _DELETE_EXPIRED,
            event="delete_expired_login_flow",
            auth_method=_METHOD,
        )


def _flow(row: Row, access: Access) -> LoginFlow:
    of = f"of user {row.user_id!r}"
    values.check_row(row.user_id, row.own, "login_flow_sessions")
    scopes = row.requested_scopes
    return LoginFlow(
        user_id=row.user_id,
        poll_token=access.unseal(
            row.encrypted_poll_token, f"login_flow_sessions.encrypted_poll_token {of}"
        ),
        poll_endpoint=row.poll_endpoint,
        requested_scopes=values.read_json_list(
            scopes, f"login_flow_sessions.requested_scopes {of}"
        ),
        created_at=row.created_at,
        expires_at=values.read_seconds(row.expires_at, f"login_flow_sessions.expires_at {of}"),
        _clock=access.clock,
    )
