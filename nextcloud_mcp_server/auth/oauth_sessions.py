"""OAuth sessions: what must be remembered between the steps of an authorization.

The tokens of the identity provider stand here unsealed, as every release wrote and reads
them. Such a row is meant to live for minutes: delete it when the flow is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, func, select, update

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.audit import SYSTEM, record
from nextcloud_mcp_server.auth.statements import in_row, insertion
from nextcloud_mcp_server.schema.tables import oauth_sessions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Select

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row


__all__ = ["OAuthSession", "OAuthSessions"]

_METHOD: Final = "oauth"
_RESOURCE: Final = "oauth_session"
_c: Final = oauth_sessions.c

_CREATE: Final = insertion(oauth_sessions, *(column.name for column in _c))
# Text keys made by early releases may be NULL: nobody's row.
_ALL: Final = select(*_c).where(_c.session_id.is_not(None))
_GET: Final = _ALL.add_columns(in_row(_c.session_id)).where(
    _c.session_id == bindparam("session_id")
)
_BY_CODE: Final = _ALL.add_columns(in_row(_c.mcp_authorization_code)).where(
    _c.mcp_authorization_code == bindparam("code")
)
# A state is the client's and need not be unique; the newest is the one under way.
_BY_STATE: Final = _ALL.where(_c.state == bindparam("of_state")).order_by(
    _c.created_at.desc(), _c.session_id.desc()
)
_EXPIRED: Final = _ALL.where(_c.expires_at <= bindparam("now"))
_CHANGEABLE: Final = (
    "user_id",
    "idp_access_token",
    "idp_refresh_token",
    "granted_scopes",
    "mcp_authorization_code",
)
_UPDATE: Final = (
    update(oauth_sessions)
    .where(_c.session_id == bindparam("of_session"))
    .values(
        {
            name: func.coalesce(bindparam(name, type_=_c[name].type), _c[name])
            for name in _CHANGEABLE
        }
    )
)
_DELETE: Final = delete(oauth_sessions).where(_c.session_id == bindparam("session_id"))
_DELETE_EXPIRED: Final = _DELETE.where(_c.expires_at <= bindparam("now"))


class OAuthSessions:
    """The authorizations under way."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def create(
        self,
        session_id: str,
        client_redirect_uri: str,
        *,
        expires_at: int,
        client_id: str | None = None,
        state: str | None = None,
        code_challenge: str | None = None,
        code_challenge_method: str | None = None,
        mcp_authorization_code: str | None = None,
        idp_access_token: str | None = None,
        idp_refresh_token: str | None = None,
        user_id: str | None = None,
        flow_type: str = "hybrid",
        requested_scopes: Sequence[str] | None = None,
        granted_scopes: Sequence[str] | None = None,
        is_provisioning: bool = False,
        nonce: str | None = None,
    ) -> None:
        """Begin a session. ``expires_at`` is in whole seconds since 1970.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` when
                the session id or the authorization code is taken.
        """
        access, now = self._access, self._access.now()
        row = {
            "session_id": valid.text(session_id, "session_id"),
            "client_id": valid.optional_text(client_id, "client_id"),
            "client_redirect_uri": valid.text(client_redirect_uri, "client_redirect_uri"),
            "state": valid.optional_text(state, "state"),
            "code_challenge": valid.optional_text(code_challenge, "code_challenge"),
            "code_challenge_method": valid.optional_text(
                code_challenge_method, "code_challenge_method"
            ),
            "created_at": now,
            "expires_at": valid.seconds(expires_at, "expires_at"),
            "flow_type": valid.flow_type(flow_type),
            "requested_scopes": values.spaced(valid.scopes(requested_scopes, "requested_scopes")),
            "is_provisioning": valid.flag(is_provisioning, "is_provisioning"),
            "nonce": valid.optional_text(nonce, "nonce"),
            **_changeable(
                user_id, idp_access_token, idp_refresh_token, granted_scopes, mcp_authorization_code
            ),
        }

        def unit(connection: Connection) -> None:
            connection.run(_CREATE, row)
            _record(connection, access, "create_oauth_session", session_id, user_id=user_id, at=now)

        await access.write(unit)

    async def get(self, session_id: str) -> OAuthSession | None:
        """The session, expired or not, or None where there is none."""
        return await self._first(_GET, {"session_id": valid.text(session_id, "session_id")})

    async def get_by_code(self, mcp_authorization_code: str) -> OAuthSession | None:
        """The session that this authorization code was issued in, expired or not, or None.

        A code is good for one use: of several who found it, the one to whom
        :meth:`delete` says True has redeemed it.
        """
        code = valid.text(mcp_authorization_code, "mcp_authorization_code")
        return await self._first(_BY_CODE, {"code": code})

    async def get_by_state(self, state: str) -> OAuthSession | None:
        """The newest session with this state, expired or not, or None."""
        return await self._first(_BY_STATE, {"of_state": valid.text(state, "state")})

    async def update(
        self,
        session_id: str,
        *,
        user_id: str | None = None,
        idp_access_token: str | None = None,
        idp_refresh_token: str | None = None,
        granted_scopes: Sequence[str] | None = None,
        mcp_authorization_code: str | None = None,
    ) -> bool:
        """Write down what a step has brought; what is None stays as it was.

        Returns:
            False where there is no such session.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` when
                the authorization code is taken.
        """
        access, now = self._access, self._access.now()
        key = {"session_id": valid.text(session_id, "session_id")}
        changes = _changeable(
            user_id, idp_access_token, idp_refresh_token, granted_scopes, mcp_authorization_code
        )

        def unit(connection: Connection) -> bool:
            if not connection.run(_UPDATE, {**changes, "of_session": session_id}):
                return False
            row = connection.first(_GET, key)
            user = user_id if row is None else row.user_id
            _record(connection, access, "update_oauth_session", session_id, user_id=user, at=now)
            return True

        return await access.write(unit)

    async def delete(self, session_id: str) -> bool:
        """End the session; False where there was none."""
        access, now = self._access, self._access.now()
        key = {"session_id": valid.text(session_id, "session_id")}

        def unit(connection: Connection) -> bool:
            row = connection.first(_GET, key)
            if row is None or not connection.run(_DELETE, key):
                return False
            _record(
                connection, access, "delete_oauth_session", session_id, user_id=row.user_id, at=now
            )
            return True

        return await access.write(unit)

    async def delete_expired(self) -> int:
        """Delete every session whose time is over; how many there were."""
        access, now = self._access, self._access.now()

        def unit(connection: Connection) -> int:
            deleted = 0
            for row in connection.all(_EXPIRED, {"now": now}):
                key = {"session_id": row.session_id, "now": now}
                if connection.run(_DELETE_EXPIRED, key):
                    deleted += 1
                    event = "delete_expired_oauth_session"
                    _record(connection, access, event, row.session_id, user_id=row.user_id, at=now)
            return deleted

        return await access.write(unit)

    async def _first(self, found: Select[Any], key: dict[str, str]) -> OAuthSession | None:
        row = await self._access.read(lambda connection: connection.first(found, key))
        if row is None:
            return None
        if "own" in row._fields:
            [(_, asked)] = key.items()
            values.check_row(asked, row.own, "oauth_sessions", secret=True)
        return read(row, self._access.clock)


def _changeable(
    user_id: str | None,
    idp_access_token: str | None,
    idp_refresh_token: str | None,
    granted_scopes: Sequence[str] | None,
    mcp_authorization_code: str | None,
) -> dict[str, str | None]:
    return {
        "user_id": None if user_id is None else valid.user_id(user_id),
        "idp_access_token": valid.optional_plain_secret(idp_access_token, "idp_access_token"),
        "idp_refresh_token": valid.optional_plain_secret(idp_refresh_token, "idp_refresh_token"),
        "granted_scopes": values.spaced(valid.scopes(granted_scopes, "granted_scopes")),
        "mcp_authorization_code": valid.optional_text(
            mcp_authorization_code, "mcp_authorization_code"
        ),
    }


def _record(
    connection: Connection,
    access: Access,
    event: str,
    session_id: str,
    *,
    user_id: str | None,
    at: int,
) -> None:
    record(
        connection,
        access,
        event,
        user_id or SYSTEM,
        at=at,
        auth_method=_METHOD,
        resource_type=_RESOURCE,
        resource_id=values.shown(session_id),
    )


@dataclass(frozen=True, slots=True)
class OAuthSession:
    """An authorization under way; the repr hides what would let somebody else finish it.

    Times are whole seconds since 1970. ``is_provisioning`` tells a flow that grants the
    server offline access from one that logs a client in.
    """

    session_id: str = field(repr=False)
    client_id: str | None
    client_redirect_uri: str
    state: str | None = field(repr=False)
    code_challenge: str | None
    code_challenge_method: str | None
    mcp_authorization_code: str | None = field(repr=False)
    idp_access_token: str | None = field(repr=False)
    idp_refresh_token: str | None = field(repr=False)
    user_id: str | None
    created_at: int
    expires_at: int
    flow_type: str
    requested_scopes: tuple[str, ...] | None
    granted_scopes: tuple[str, ...] | None
    is_provisioning: bool
    nonce: str | None = field(repr=False)
    _clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether its last second has come, now."""
        return self.expires_at <= self._clock()


def read(row: Row, clock: Callable[[], float]) -> OAuthSession:
    """The session of a row; ``clock`` tells it whether it is expired.

    Raises:
        TokenStorageError: ``unreadable`` where a time in it is none.
    """
    of = f"of session {values.shown(row.session_id)!r}"
    return OAuthSession(
        session_id=row.session_id,
        client_id=row.client_id,
        client_redirect_uri=row.client_redirect_uri,
        state=row.state,
        code_challenge=row.code_challenge,
        code_challenge_method=row.code_challenge_method,
        mcp_authorization_code=row.mcp_authorization_code,
        idp_access_token=row.idp_access_token,
        idp_refresh_token=row.idp_refresh_token,
        user_id=row.user_id,
        created_at=values.read_seconds(row.created_at, f"oauth_sessions.created_at {of}"),
        expires_at=values.read_seconds(row.expires_at, f"oauth_sessions.expires_at {of}"),
        flow_type=row.flow_type or "hybrid",
        requested_scopes=values.read_spaced(row.requested_scopes),
        granted_scopes=values.read_spaced(row.granted_scopes),
        is_provisioning=bool(row.is_provisioning),
        nonce=row.nonce,
        _clock=clock,
    )
