"""OAuth sessions: the state between the steps of an authorization.

A row is meant to exist for minutes: delete it when the flow is done.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Update, bindparam, delete, func, update

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Clock, Concern, Expiring, from_row
from nextcloud_mcp_server.auth.context import wall_clock
from nextcloud_mcp_server.auth.secrets import Reading, has_secrets, sealed
from nextcloud_mcp_server.auth.statements import expired, in_row, insertion, rows_with, stored_as
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.crypto.binding import hashed, stored_id
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.schema.tables import oauth_sessions
from nextcloud_mcp_server.secret import hidden

_c: Final = oauth_sessions.c
_SECRETS: Final = secrets_of("oauth_sessions")

_CREATE: Final = insertion(oauth_sessions)
_ALL: Final = rows_with(_c.session_id, *_c)
_GET: Final = _ALL.add_columns(in_row(_c.session_id)).where(stored_as(_c.session_id))
_BY_CODE: Final = _ALL.add_columns(in_row(_c.mcp_authorization_code)).where(
    stored_as(_c.mcp_authorization_code)
)
# The client chooses the state, which may not be unique: the newest row is the running one.
_BY_STATE: Final = (
    _ALL.add_columns(in_row(_c.state))
    .where(stored_as(_c.state))
    .order_by(_c.created_at.desc(), _c.session_id.desc())
)
_OF_USER: Final = (
    rows_with(_c.session_id, _c.session_id, _c.user_id)
    .where(_c.user_id == bindparam("user_id"))
    .order_by(_c.session_id)
)
_EXPIRED: Final = expired(_c.session_id, _c.expires_at, _c.session_id, _c.user_id, _c.browser_hash)
_CHANGEABLE: Final = (
    "user_id",
    "idp_access_token",
    "idp_refresh_token",
    "granted_scopes",
    "mcp_authorization_code",
    "code_expires_at",
    "poll_endpoint",
    "encrypted_poll_token",
)
_UPDATE: Final = (
    update(oauth_sessions)
    .where(stored_as(_c.session_id))
    .values(
        {
            name: func.coalesce(bindparam(name, type_=_c[name].type), _c[name])
            for name in _CHANGEABLE
        }
    )
)
_ISSUE: Final = _UPDATE.where(_c.mcp_authorization_code.is_(None))
_DELETE: Final = delete(oauth_sessions).where(_c.session_id == bindparam("session_id"))
_DELETE_EXPIRED: Final = _DELETE.where(_c.expires_at <= bindparam("now"))


@dataclass(frozen=True, slots=True)
class OAuthSession(Expiring):
    """A running authorization; the repr hides everything that could be used to complete it.

    Of ``session_id`` and ``mcp_authorization_code`` only a hash is stored: the one that was not
    asked with is a hash here, which finds the session again in this process.

    Times are whole seconds since 1970. ``is_provisioning`` is true for a flow that grants
    the server offline access, and false for the login of a client. ``redirect_uri_given`` is
    whether the client has sent its redirect URI, and ``poll_endpoint`` the Nextcloud that
    ``poll_token`` is for.
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
    resource: str | None = None
    redirect_uri_given: bool | None = None
    browser_hash: str | None = field(default=None, repr=False)
    code_expires_at: int | None = None
    poll_endpoint: str | None = None
    poll_token: str | None = field(default=None, repr=False)
    _clock: Clock = field(default=wall_clock, repr=False, compare=False)

    def began_in(self, browser_id: str) -> bool:
        """Return whether the authorization began in the browser with this id."""
        browser_id = hidden(browser_id)
        expected = (self.browser_hash or "").encode()
        return hmac.compare_digest(expected, hashed(browser_id).encode())


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
        resource: str | None = None,
        redirect_uri_given: bool | None = None,
        browser_id: str | None = None,
    ) -> None:
        """Store a new session. ``expires_at`` is in whole seconds since 1970.

        Of ``browser_id``, the cookie of the browser in which it begins, only a hash is stored. A
        session that began in a browser has entries in the audit log as soon as it has a user.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` if
                the session id or the authorization code exists.
        """
        session_id = hidden(session_id)
        state = hidden(state)
        browser_id = hidden(browser_id)
        mcp_authorization_code = hidden(mcp_authorization_code)
        idp_access_token = hidden(idp_access_token)
        idp_refresh_token = hidden(idp_refresh_token)
        nonce = hidden(nonce)
        now = self._access.now()
        texts = {
            "client_id": client_id,
            "code_challenge": code_challenge,
            "code_challenge_method": code_challenge_method,
            "nonce": nonce,
        }
        state = valid.optional_text(state, "state")
        row = {
            "session_id": hashed(valid.credential(session_id, "session_id")),
            "state": None if state is None else hashed(state),
            "encrypted_state": state,
            **{name: valid.optional_text(value, name) for name, value in texts.items()},
            "client_redirect_uri": valid.text(client_redirect_uri, "client_redirect_uri"),
            "created_at": now,
            "expires_at": valid.seconds(expires_at, "expires_at"),
            "flow_type": valid.flow_type(flow_type),
            "requested_scopes": values.spaced(valid.scopes(requested_scopes, "requested_scopes")),
            "is_provisioning": valid.flag(is_provisioning, "is_provisioning"),
            "resource": valid.optional_text(resource, "resource"),
            "redirect_uri_given": redirect_uri_given,
            "browser_hash": None
            if browser_id is None
            else hashed(valid.credential(browser_id, "browser_id")),
            **_changeable(
                user_id, idp_access_token, idp_refresh_token, granted_scopes, mcp_authorization_code
            ),
        }
        recorded = user_id is not None or browser_id is None
        await self._write(_CREATE, row, "create_oauth_session", user_id, at=now, recorded=recorded)

    async def get(self, session_id: str) -> OAuthSession | None:
        """Return the session, expired or not, or None."""
        session_id = hidden(session_id)
        return await self._get(
            _GET,
            valid.stored_forms(session_id, "session_id"),
            lambda row, reading: _session(row, reading, session_id=session_id),
        )

    async def get_by_code(self, mcp_authorization_code: str) -> OAuthSession | None:
        """Return the session of this authorization code, expired or not, or None.

        A code is valid for one use. If several callers read the same session, the one for
        which :meth:`delete` returns True has redeemed the code.
        """
        mcp_authorization_code = hidden(mcp_authorization_code)
        code = mcp_authorization_code
        return await self._get(
            _BY_CODE,
            valid.stored_forms(code, "mcp_authorization_code"),
            lambda row, reading: _session(row, reading, code=code),
        )

    async def get_by_state(self, state: str) -> OAuthSession | None:
        """Return the newest session with this state, expired or not, or None."""
        state = hidden(state)
        return await self._get(_BY_STATE, valid.stored_forms(state, "state"), _session)

    async def update(
        self,
        session_id: str,
        *,
        user_id: str | None = None,
        idp_access_token: str | None = None,
        idp_refresh_token: str | None = None,
        granted_scopes: Sequence[str] | None = None,
        mcp_authorization_code: str | None = None,
        code_expires_at: int | None = None,
        poll_endpoint: str | None = None,
        poll_token: str | None = None,
    ) -> bool:
        """Store the results of a step; the columns of arguments that are None are not changed.

        ``poll_token`` is bound to the ``poll_endpoint`` that is given with it.

        Returns:
            False if there is no such session.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` if
                the authorization code exists.
        """
        session_id = hidden(session_id)
        idp_access_token = hidden(idp_access_token)
        idp_refresh_token = hidden(idp_refresh_token)
        mcp_authorization_code = hidden(mcp_authorization_code)
        poll_token = hidden(poll_token)
        valid.together(poll_endpoint=poll_endpoint, poll_token=poll_token)
        changes = _changeable(
            user_id,
            idp_access_token,
            idp_refresh_token,
            granted_scopes,
            mcp_authorization_code,
            code_expires_at=code_expires_at,
            poll_endpoint=poll_endpoint,
            poll_token=poll_token,
        )
        return await self._update(session_id, changes, user_id=user_id)

    async def issue_code(
        self, session_id: str, mcp_authorization_code: str, *, code_expires_at: int
    ) -> bool:
        """Store the only authorization code of a session.

        Returns:
            False if there is no such session, or it has a code: of several callers one gets True.

        Raises:
            TokenStorageError: as :meth:`update`.
        """
        session_id = hidden(session_id)
        code = hidden(mcp_authorization_code)
        changes = _changeable(None, None, None, None, code, code_expires_at=code_expires_at)
        return await self._update(session_id, changes, statement=_ISSUE)

    async def _update(
        self,
        session_id: str,
        changes: dict[str, str | int | None],
        *,
        user_id: str | None = None,
        statement: Update = _UPDATE,
    ) -> bool:
        """Change a session; False if there is none that ``statement`` applies to."""
        session_id = hidden(session_id)
        changes = hidden(changes)
        access, now = self._access, self._access.now()
        key = valid.stored_forms(session_id, "session_id")
        bound = {**changes, "session_id": key["hashed"]}

        def unit(connection: Connection) -> bool:
            used = access.primary_key(connection) if has_secrets(self._table, changes) else None
            row = bound if used is None else sealed(self._table, bound, used)
            for asked in Reading(access, connection).lookups(key):
                if (found := connection.first(_GET, asked)) is not None:
                    break
            else:
                return False
            following = self._change(connection, statement, {**row, **asked})
            if following is None:
                return False
            user, event = user_id or found.user_id, "update_oauth_session"
            if user is None and not self._is_recorded(found):
                self._check_key(connection, used, following)
                return True
            self._record(connection, event, user, at=now, row=row, used=used, following=following)
            return True

        return await access.write(unit)

    async def delete(self, session_id: str) -> bool:
        """Delete the session; False if there was none."""
        session_id = hidden(session_id)
        key = valid.stored_forms(session_id, "session_id")
        return await self._delete_all(_GET, _DELETE, "delete_oauth_session", key) > 0

    def _is_recorded(self, row: Row) -> bool:
        """Return whether a session has entries: not if it began in a browser and has no user yet.

        Everybody can begin one there, and a log that keeps each would grow without limit.
        """
        return row.user_id is not None or row.browser_hash is None

    async def delete_for_user(self, user_id: str) -> int:
        """Delete every session of a user who has granted access; return how many there were."""
        key = {"user_id": valid.user_id(user_id)}
        return await self._delete_all(_OF_USER, _DELETE, "delete_oauth_session", key)

    async def delete_expired(self) -> int:
        """Delete every expired session; return how many there were."""
        return await self._delete_all(_EXPIRED, _DELETE_EXPIRED, "delete_expired_oauth_session")


def _changeable(
    user_id: str | None,
    idp_access_token: str | None,
    idp_refresh_token: str | None,
    granted_scopes: Sequence[str] | None,
    mcp_authorization_code: str | None,
    *,
    code_expires_at: int | None = None,
    poll_endpoint: str | None = None,
    poll_token: str | None = None,
) -> dict[str, str | int | None]:
    return {
        "code_expires_at": valid.optional_seconds(code_expires_at, "code_expires_at"),
        "poll_endpoint": valid.optional_text(poll_endpoint, "poll_endpoint"),
        "encrypted_poll_token": None
        if poll_token is None
        else valid.secret(poll_token, "poll_token"),
        "user_id": None if user_id is None else valid.user_id(user_id),
        "idp_access_token": valid.optional_secret(idp_access_token, "idp_access_token"),
        "idp_refresh_token": valid.optional_secret(idp_refresh_token, "idp_refresh_token"),
        "granted_scopes": values.spaced(valid.scopes(granted_scopes, "granted_scopes")),
        "mcp_authorization_code": None
        if mcp_authorization_code is None
        else hashed(valid.credential(mcp_authorization_code, "mcp_authorization_code")),
    }


def _session(
    row: Row, reading: Reading, *, session_id: str | None = None, code: str | None = None
) -> OAuthSession:
    stored = stored_id(row.session_id)
    of = f"of session {stored!r}"

    def secret(name: str) -> str | None:
        return None if getattr(row, name) is None else reading.secret(row, _SECRETS[name], of)

    # A released version has stored the state itself.
    state = row.state if row.encrypted_state is None else secret("encrypted_state")
    if code is None and row.mcp_authorization_code is not None:
        code = stored_id(row.mcp_authorization_code)
    return from_row(
        OAuthSession,
        row,
        session_id=session_id or stored,
        state=state,
        mcp_authorization_code=code,
        **{name: secret(name) for name in ("idp_access_token", "idp_refresh_token", "nonce")},
        created_at=values.read_seconds(row.created_at, f"oauth_sessions.created_at {of}"),
        expires_at=values.read_seconds(row.expires_at, f"oauth_sessions.expires_at {of}"),
        flow_type=row.flow_type or "hybrid",
        requested_scopes=values.read_spaced(row.requested_scopes),
        granted_scopes=values.read_spaced(row.granted_scopes),
        is_provisioning=bool(row.is_provisioning),
        redirect_uri_given=None if row.redirect_uri_given is None else bool(row.redirect_uri_given),
        poll_token=secret("encrypted_poll_token"),
        _clock=reading.clock,
    )
