"""OAuth sessions: the state between the steps of an authorization.

The tokens of the identity provider are not encrypted here, because every release writes and
reads them so. A row is meant to exist for minutes: delete it when the flow is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import bindparam, delete, func, update

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Clock, Concern, Expiring, from_row
from nextcloud_mcp_server.auth.context import Access, wall_clock
from nextcloud_mcp_server.auth.statements import expired, in_row, insertion, rows_with
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.schema.tables import oauth_sessions

_c: Final = oauth_sessions.c

_CREATE: Final = insertion(oauth_sessions)
_ALL: Final = rows_with(_c.session_id, *_c)
_GET: Final = _ALL.add_columns(in_row(_c.session_id)).where(
    _c.session_id == bindparam("session_id")
)
_BY_CODE: Final = _ALL.add_columns(in_row(_c.mcp_authorization_code)).where(
    _c.mcp_authorization_code == bindparam("code")
)
# The client chooses the state, which may not be unique: the newest row is the running one.
_BY_STATE: Final = _ALL.where(_c.state == bindparam("of_state")).order_by(
    _c.created_at.desc(), _c.session_id.desc()
)
_EXPIRED: Final = expired(_c.session_id, _c.expires_at, _c.session_id, _c.user_id)
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


@dataclass(frozen=True, slots=True)
class OAuthSession(Expiring):
    """A running authorization; the repr hides everything that could be used to complete it.

    Times are whole seconds since 1970. ``is_provisioning`` is true for a flow that grants
    the server offline access, and false for the login of a client.
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
    _clock: Clock = field(default=wall_clock, repr=False, compare=False)


class OAuthSessions(Concern):
    """The running authorizations."""

    _table = "oauth_sessions"
    _key = "session_id"
    _auth_method = "oauth"
    _resource_type = "oauth_session"

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
        """Store a new session. ``expires_at`` is in whole seconds since 1970.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` if
                the session id or the authorization code exists.
        """
        now = self._access.now()
        texts = {
            "client_id": client_id,
            "state": state,
            "code_challenge": code_challenge,
            "code_challenge_method": code_challenge_method,
            "nonce": nonce,
        }
        row = {
            **valid.session_key(session_id),
            **{name: valid.optional_text(value, name) for name, value in texts.items()},
            "client_redirect_uri": valid.text(client_redirect_uri, "client_redirect_uri"),
            "created_at": now,
            "expires_at": valid.seconds(expires_at, "expires_at"),
            "flow_type": valid.flow_type(flow_type),
            "requested_scopes": values.spaced(valid.scopes(requested_scopes, "requested_scopes")),
            "is_provisioning": valid.flag(is_provisioning, "is_provisioning"),
            **_changeable(
                user_id, idp_access_token, idp_refresh_token, granted_scopes, mcp_authorization_code
            ),
        }
        await self._write(_CREATE, row, "create_oauth_session", user_id, at=now)

    async def get(self, session_id: str) -> OAuthSession | None:
        """Return the session, expired or not, or None."""
        return await self._get(_GET, valid.session_key(session_id), _session)

    async def get_by_code(self, mcp_authorization_code: str) -> OAuthSession | None:
        """Return the session of this authorization code, expired or not, or None.

        A code is valid for one use. If several callers read the same session, the one for
        which :meth:`delete` returns True has redeemed the code.
        """
        code = valid.text(mcp_authorization_code, "mcp_authorization_code")
        return await self._get(_BY_CODE, {"code": code}, _session)

    async def get_by_state(self, state: str) -> OAuthSession | None:
        """Return the newest session with this state, expired or not, or None."""
        return await self._get(_BY_STATE, {"of_state": valid.text(state, "state")}, _session)

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
        """Store the results of a step; the columns of arguments that are None are not changed.

        Returns:
            False if there is no such session.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` if
                the authorization code exists.
        """
        now, key = self._access.now(), valid.session_key(session_id)
        changes = _changeable(
            user_id, idp_access_token, idp_refresh_token, granted_scopes, mcp_authorization_code
        )

        def unit(connection: Connection) -> bool:
            if not self._run(connection, _UPDATE, {**changes, "of_session": session_id}):
                return False
            row = connection.first(_GET, key)
            user = user_id if row is None else row.user_id
            self._record(connection, "update_oauth_session", user, now, session_id)
            return True

        return await self._access.write(unit)

    async def delete(self, session_id: str) -> bool:
        """Delete the session; False if there was none."""
        key = valid.session_key(session_id)
        return await self._delete_all(_GET, _DELETE, "delete_oauth_session", key) > 0

    async def delete_expired(self) -> int:
        """Delete every expired session; return how many there were."""
        return await self._delete_all(_EXPIRED, _DELETE_EXPIRED, "delete_expired_oauth_session")


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


def _session(row: Row, access: Access) -> OAuthSession:
    of = f"of session {values.shown(row.session_id)!r}"
    return from_row(
        OAuthSession,
        row,
        created_at=values.read_seconds(row.created_at, f"oauth_sessions.created_at {of}"),
        expires_at=values.read_seconds(row.expires_at, f"oauth_sessions.expires_at {of}"),
        flow_type=row.flow_type or "hybrid",
        requested_scopes=values.read_spaced(row.requested_scopes),
        granted_scopes=values.read_spaced(row.granted_scopes),
        is_provisioning=bool(row.is_provisioning),
        _clock=access.clock,
    )
