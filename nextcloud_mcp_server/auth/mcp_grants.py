"""Grants: what a user allows an MCP client, from the redemption of a code to the revocation.

A refresh token is exchanged once. Several processes of one client often refresh at the same
time, so within :data:`GRACE` seconds the old one still gets an access token, but no new refresh
token. Later it must have been stolen from one of them, and the grant is revoked.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, delete, exists, func, literal, or_, select, update

from nextcloud_mcp_server.auth import mcp_tokens as tokens
from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.audit import SYSTEM, record
from nextcloud_mcp_server.auth.concern import Concern, from_row
from nextcloud_mcp_server.auth.mcp_tokens import ACCESS, REFRESH, McpToken
from nextcloud_mcp_server.auth.statements import AT_ONCE, in_row, insertion
from nextcloud_mcp_server.auth.values import check_row
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.schema.tables import mcp_clients, mcp_grants, mcp_tokens, oauth_sessions
from nextcloud_mcp_server.secret import hidden

#: Seconds after its exchange in which a refresh token still gets an access token.
GRACE: Final = 60

#: Seconds for which a grant without tokens is kept, so that a page can say why it ended.
KEPT: Final = 30 * 86_400

#: Seconds between two writes of ``last_used_at``.
_RARELY: Final = 60

#: Why a grant was revoked.
BY_USER: Final = "the user"
BY_CLIENT: Final = "the client"
REUSED_CODE: Final = "its code was used twice"
REUSED_TOKEN: Final = "an old refresh token was used"  # noqa: S105 - a reason
DISCONNECTED: Final = "the account was disconnected"

_c: Final = mcp_grants.c
_s: Final = oauth_sessions.c
_t: Final = mcp_tokens.c

_INSERT: Final = insertion(mcp_grants)
_OF_CODE: Final = select(_c.grant_id, _c.client_id, _c.user_id, in_row(_c.code_hash)).where(
    _c.code_hash == bindparam("code_hash"), _c.revoked_at.is_(None)
)
_SESSION_OF_CODE: Final = select(*_s, in_row(_s.mcp_authorization_code)).where(
    _s.mcp_authorization_code == bindparam("code_hash")
)
_DELETE_SESSION: Final = delete(oauth_sessions).where(
    _s.session_id == bindparam("session_id"),
    _s.mcp_authorization_code == bindparam("code_hash"),
)
_USE_CLIENT: Final = (
    update(mcp_clients)
    .where(mcp_clients.c.client_id == bindparam("client"))
    .values(last_used_at=bindparam("now"))
)
_GET: Final = select(*_c, in_row(_c.grant_id)).where(_c.grant_id == bindparam("grant_id"))
_OF_USER: Final = (
    select(*_c).where(_c.user_id == bindparam("user_id")).order_by(_c.created_at, _c.grant_id)
)
_REVOKE: Final = (
    update(mcp_grants)
    .where(_c.grant_id == bindparam("grant"), _c.revoked_at.is_(None))
    .values(revoked_at=bindparam("now"), revoked_why=bindparam("why"))
)
_CHANGE: Final = (
    update(mcp_grants)
    .where(
        _c.grant_id == bindparam("grant"),
        _c.user_id == bindparam("user"),
        _c.revoked_at.is_(None),
    )
    .values(scopes=bindparam("scopes"))
)
_TOUCH: Final = (
    update(mcp_grants)
    .where(
        _c.grant_id == bindparam("grant"),
        or_(_c.last_used_at.is_(None), _c.last_used_at <= bindparam("now") - _RARELY),
    )
    .values(last_used_at=bindparam("now"))
)
_ended_at: Final = func.coalesce(_c.revoked_at, _c.created_at)
_has_token: Final = exists(
    select(literal(1)).where(_t.grant_id == _c.grant_id, _t.expires_at >= bindparam("now"))
)
_is_over: Final = (_ended_at <= bindparam("now") - KEPT) & ~_has_token
_OVER: Final = select(_c.grant_id, _c.user_id).where(_is_over).order_by(_c.grant_id).limit(AT_ONCE)
_DELETE_OVER: Final = delete(mcp_grants).where(_c.grant_id == bindparam("grant_id"), _is_over)
_facts: Final = select(_c.revoked_why, _has_token.label("has_token")).subquery()
_BY_STATE: Final = select(
    _facts.c.revoked_why, _facts.c.has_token, func.count().label("many")
).group_by(_facts.c.revoked_why, _facts.c.has_token)
#: The states of a grant: with a valid token, with none, revoked, or revoked because of a reuse.
STATES: Final = ("active", "expired", "revoked", "reused")

#: How many :meth:`McpGrants.delete_expired` would delete, at the parameter ``now``.
COUNT_EXPIRED: Final = select(func.count()).select_from(mcp_grants).where(_is_over)


@dataclass(frozen=True, slots=True)
class McpGrant:
    """A grant. Times are whole seconds since 1970.

    ``revoked_why`` is one of the constants of this module.
    """

    grant_id: str
    client_id: str
    user_id: str
    scopes: tuple[str, ...]
    resource: str
    created_at: int
    last_used_at: int | None
    revoked_at: int | None
    revoked_why: str | None


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """New tokens, which are stored nowhere in plain; the repr hides them.

    ``refresh_token`` is None if the client keeps the one that it has.
    """

    grant_id: str
    user_id: str
    scopes: tuple[str, ...]
    expires_in: int
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)


class McpGrants(Concern):
    """The grants of all users, and the life of their tokens."""

    _table = "mcp_grants"
    _key = "grant_id"
    _auth_method = "oauth"

    async def redeem(self, code: str, *, client_id: str) -> IssuedTokens | None:
        """Exchange an authorization code for a grant with its first tokens, in one transaction.

        Returns:
            None if the code is unknown, expired, of another client or used. If it was used by
            this client, its grant is revoked.

        Raises:
            TokenStorageError: ``bad-input`` if it cannot be a code.
        """
        code = hidden(code)
        code_hash = hashed(valid.text(code, "code"))
        now = self._access.now()
        access_token, refresh_token = tokens.new_token(), tokens.new_token()
        grant_id = secrets.token_hex(16)

        def unit(connection: Connection) -> IssuedTokens | None:
            session = connection.first(_SESSION_OF_CODE, {"code_hash": code_hash})
            if session is None:
                self._revoke_reused(connection, code_hash, client_id, now)
                return None
            check_row([code_hash], session.own, "oauth_sessions", secret=True)
            if session.client_id != client_id or (session.code_expires_at or 0) <= now:
                return None
            key = {"session_id": session.session_id, "code_hash": code_hash}
            if not connection.run(_DELETE_SESSION, key):
                # Another process has redeemed it between the two statements.
                self._revoke_reused(connection, code_hash, client_id, now)
                return None
            scopes = values.read_spaced(session.granted_scopes) or ()
            self._run(
                connection,
                _INSERT,
                {
                    "grant_id": grant_id,
                    "client_id": client_id,
                    "user_id": session.user_id,
                    "scopes": values.spaced(scopes),
                    "resource": session.resource,
                    "code_hash": code_hash,
                    "created_at": now,
                    "last_used_at": None,
                    "revoked_at": None,
                    "revoked_why": None,
                },
            )
            connection.run(_USE_CLIENT, {"client": client_id, "now": now})
            for token, kind in ((access_token, ACCESS), (refresh_token, REFRESH)):
                tokens.issue(connection, token, grant_id, kind, scopes=None, now=now)
            self._note(connection, "create_mcp_grant", session.user_id, grant_id, now)
            return IssuedTokens(
                grant_id,
                session.user_id,
                scopes,
                tokens.ACCESS_LIFE,
                access_token.reveal(),
                refresh_token.reveal(),
            )

        return await self._access.write(unit)

    async def refresh(
        self, refresh_token: str, *, client_id: str, scopes: Sequence[str] | None = None
    ) -> IssuedTokens | None:
        """Exchange a refresh token for new tokens, in one transaction.

        Within :data:`GRACE` seconds after its exchange it gets an access token alone. Later its
        grant is revoked.

        Args:
            refresh_token: of the client.
            client_id: of the client.
            scopes: fewer scopes for the access token; None for those of the grant.

        Returns:
            None if the token is unknown, expired, of another client, revoked or reused.

        Raises:
            TokenStorageError: ``bad-input`` if it cannot be a token.
        """
        refresh_token = hidden(refresh_token)
        token_hash = hashed(valid.text(refresh_token, "refresh_token"))
        asked = valid.scopes(scopes)
        now = self._access.now()
        access_token, successor = tokens.new_token(), tokens.new_token()

        def unit(connection: Connection) -> IssuedTokens | None:
            found = tokens.find(connection, token_hash)
            if found is None or not _may_refresh(found, client_id, now):
                return None
            is_first = found.used_at is None and tokens.rotate(
                connection, token_hash, successor, now
            )
            # Neither does a clock that was set back make the grace longer.
            if not is_first and found.used_at is not None and abs(now - found.used_at) > GRACE:
                self._revoke(connection, found.grant_id, found.user_id, REUSED_TOKEN, now)
                return None
            if is_first:
                tokens.issue(connection, successor, found.grant_id, REFRESH, scopes=None, now=now)
            tokens.issue(connection, access_token, found.grant_id, ACCESS, scopes=asked, now=now)
            event = "refresh_mcp_grant" if is_first else "refresh_mcp_grant_again"
            self._note(connection, event, found.user_id, found.grant_id, now)
            return IssuedTokens(
                found.grant_id,
                found.user_id,
                found.scopes if asked is None else asked,
                tokens.ACCESS_LIFE,
                access_token.reveal(),
                successor.reveal() if is_first else None,
            )

        return await self._access.write(unit)

    async def get(self, grant_id: str) -> McpGrant | None:
        """Return the grant, revoked or not, or None."""
        key = {"grant_id": valid.text(grant_id, "grant_id")}
        return await self._get(_GET, key, lambda row, _: _grant(row))

    async def list_for_user(self, user_id: str) -> list[McpGrant]:
        """Return the user's grants, oldest first, also those that were revoked lately."""
        key = {"user_id": valid.user_id(user_id)}
        rows = await self._access.read(lambda connection: connection.all(_OF_USER, key))
        return [_grant(row) for row in rows]

    async def count_by_state(self) -> dict[str, int]:
        """Return how many grants there are of each of :data:`STATES`."""
        now = {"now": self._access.now()}
        rows = await self._access.read(lambda connection: connection.all(_BY_STATE, now))
        counts = dict.fromkeys(STATES, 0)
        for row in rows:
            counts[_state(row.revoked_why, has_token=row.has_token)] += row.many
        return counts

    async def change_scopes(self, grant_id: str, user_id: str, scopes: Sequence[str]) -> bool:
        """Replace the scopes of a user's grant; also its access tokens have them at once.

        Returns:
            False if the user has no such grant, or it was revoked.
        """
        now = self._access.now()
        row = {
            "grant": valid.text(grant_id, "grant_id"),
            "user": valid.user_id(user_id),
            "scopes": values.spaced(valid.scopes(scopes)),
        }

        def unit(connection: Connection) -> bool:
            if not self._run(connection, _CHANGE, row):
                return False
            self._note(connection, "change_mcp_grant", user_id, grant_id, now)
            return True

        return await self._access.write(unit)

    async def revoke(self, grant_id: str, why: str, *, user_id: str | None = None) -> bool:
        """Revoke a grant and delete its tokens.

        Args:
            grant_id: of the grant.
            why: one of the constants of this module.
            user_id: only if it is of this user; None for any.

        Returns:
            False if there is none, or it was revoked already.
        """
        key = {"grant_id": valid.text(grant_id, "grant_id")}
        now = self._access.now()

        def unit(connection: Connection) -> bool:
            row = connection.first(_GET, key)
            if row is None or (user_id is not None and row.user_id != user_id):
                return False
            check_row([grant_id], row.own, self._table)
            return self._revoke(connection, grant_id, row.user_id, why, now)

        return await self._access.write(unit)

    async def revoke_for_user(self, user_id: str, why: str) -> int:
        """Revoke every grant of a user; return how many there were."""
        grants = await self.list_for_user(user_id)
        return sum([await self.revoke(grant.grant_id, why, user_id=user_id) for grant in grants])

    async def touch(self, used: Mapping[str, int]) -> None:
        """Store when grants were used last, by id, in one transaction; at most once a minute each.

        The times are whole seconds since 1970. Records nothing.
        """

        def unit(connection: Connection) -> None:
            # In the order of the key, as all writers of several rows.
            for grant_id, at in sorted(used.items()):
                connection.run(_TOUCH, {"grant": grant_id, "now": at})

        if used:
            await self._access.write(unit, again=True)

    async def delete_expired(self) -> int:
        """Delete the grants that ended a month ago; return how many there were."""
        return await self._delete_all(_OVER, _DELETE_OVER, "delete_expired_mcp_grant")

    def _revoke_reused(
        self, connection: Connection, code_hash: str, client_id: str, now: int
    ) -> None:
        row = connection.first(_OF_CODE, {"code_hash": code_hash})
        if row is not None and row.client_id == client_id:
            check_row([code_hash], row.own, self._table, secret=True)
            self._revoke(connection, row.grant_id, row.user_id, REUSED_CODE, now)

    def _revoke(
        self, connection: Connection, grant_id: str, user_id: str, why: str, now: int
    ) -> bool:
        if not self._run(connection, _REVOKE, {"grant": grant_id, "now": now, "why": why}):
            return False
        tokens.delete_of_grant(connection, grant_id)
        reused = why in {REUSED_CODE, REUSED_TOKEN}
        event = "revoke_reused_mcp_grant" if reused else "revoke_mcp_grant"
        self._note(connection, event, user_id, grant_id, now)
        return True

    def _note(
        self, connection: Connection, event: str, user_id: str, grant_id: str, now: int
    ) -> None:
        """Record ``event``. The id of a grant is no credential, and is not hashed."""
        entry: dict[str, Any] = {
            "timestamp": now,
            "event": event,
            "user_id": user_id or SYSTEM,
            "resource_type": "mcp_grant",
            "resource_id": grant_id,
            "auth_method": self._auth_method,
            "hostname": self._access.hostname,
        }
        record(connection, entry, self._access)


def _state(revoked_why: str | None, *, has_token: bool) -> str:
    if revoked_why is None:
        return "active" if has_token else "expired"
    return "reused" if revoked_why in {REUSED_CODE, REUSED_TOKEN} else "revoked"


def _may_refresh(found: McpToken, client_id: str, now: int) -> bool:
    """Return whether a token is a valid refresh token of a client, used or not."""
    return (
        found.kind == REFRESH
        and found.client_id == client_id
        and not found.is_revoked
        and found.expires_at > now
    )


def _grant(row: Row) -> McpGrant:
    return from_row(McpGrant, row, scopes=values.read_spaced(row.scopes) or ())
