"""The tokens that this server issues to MCP clients: 32 random bytes each, stored as hashes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, func, select, update

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Concern
from nextcloud_mcp_server.auth.deletion import delete_pages, not_stored
from nextcloud_mcp_server.auth.statements import AT_ONCE, in_row, insertion, oldest
from nextcloud_mcp_server.auth.values import check_row
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.schema.tables import mcp_grants, mcp_tokens
from nextcloud_mcp_server.secret import Secret, hidden

ACCESS: Final = "access"
REFRESH: Final = "refresh"

#: Seconds for which they are valid.
ACCESS_LIFE: Final = 3_600
REFRESH_LIFE: Final = 30 * 86_400

_BYTES: Final = 32

_t: Final = mcp_tokens.c
_g: Final = mcp_grants.c

_INSERT: Final = insertion(mcp_tokens)
_FIND: Final = (
    select(
        _t.kind,
        _t.scopes.label("token_scopes"),
        _t.expires_at,
        _t.used_at,
        _g.grant_id,
        _g.client_id,
        _g.user_id,
        _g.scopes,
        _g.resource,
        _g.revoked_at,
        in_row(_t.token_hash),
        in_row(_g.grant_id).label("own_grant"),
    )
    .join_from(mcp_tokens, mcp_grants, _t.grant_id == _g.grant_id)
    .where(_t.token_hash == bindparam("token_hash"))
)
_ROTATE: Final = (
    update(mcp_tokens)
    .where(_t.token_hash == bindparam("old"), _t.used_at.is_(None))
    .values(used_at=bindparam("now"), successor_hash=bindparam("successor"))
)
_DELETE_OF_GRANT: Final = delete(mcp_tokens).where(_t.grant_id == bindparam("grant_id"))
_DELETE_PAGE: Final = delete(mcp_tokens).where(
    _t.token_hash.in_(oldest(_t.token_hash, _t.expires_at, AT_ONCE))
)
#: How many :meth:`McpTokens.delete_expired` would delete, at the parameter ``now``.
COUNT_EXPIRED: Final = (
    select(func.count()).select_from(mcp_tokens).where(_t.expires_at < bindparam("now"))
)


@dataclass(frozen=True, slots=True)
class McpToken:
    """A token and its grant. Times are whole seconds since 1970; the token itself is not in it.

    ``scopes`` are those of the grant now, without those that the token was not asked for.
    ``used_at`` is when a refresh token was exchanged; None if it was not.
    """

    kind: str
    grant_id: str
    client_id: str
    user_id: str
    scopes: tuple[str, ...]
    resource: str
    expires_at: int
    used_at: int | None
    is_revoked: bool


class McpTokens(Concern):
    """The issued tokens: finding one, and deleting the expired ones."""

    _table = "mcp_tokens"
    _key = "token_hash"

    async def find(self, token: str) -> McpToken | None:
        """Return the token, whatever its kind, expired, used, revoked or not; None if unknown.

        Raises:
            TokenStorageError: ``bad-input`` if it cannot be a token; ``corrupt`` if a damaged
                index leads to another token.
        """
        token = hidden(token)
        token_hash = hashed(valid.text(token, "token"))
        return await self._access.read(lambda connection: find(connection, token_hash))

    async def find_valid(self, token: str, kind: str) -> McpToken | None:
        """Return the token if it is of this kind, not expired and not revoked; else None."""
        token = hidden(token)
        found = await self.find(token)
        if found is None or found.kind != kind or found.is_revoked:
            return None
        return found if found.expires_at > self._access.now() else None

    async def delete_expired(self) -> int:
        """Delete the expired tokens, and return how many there were. Records nothing."""
        before = {"before": self._access.now()}
        return await delete_pages(self._access, _DELETE_PAGE, before)


def new_token() -> Secret:
    """Return a new token: 32 random bytes in urlsafe base64."""
    return Secret(secrets.token_urlsafe(_BYTES))


def find(connection: Connection, token_hash: str) -> McpToken | None:
    """Return the token with this hash, in a unit of work."""
    row = connection.first(_FIND, {"token_hash": token_hash})
    if row is None:
        return None
    check_row([token_hash], row.own, "mcp_tokens", secret=True)
    check_row([row.grant_id], row.own_grant, "mcp_grants")
    return _token(row)


def issue(
    connection: Connection,
    token: str,
    grant_id: str,
    kind: str,
    *,
    scopes: tuple[str, ...] | None,
    now: int,
) -> None:
    """Store a new token of a grant, in a unit of work; scopes of None are those of the grant."""
    row = {
        "token_hash": hashed(token),
        "grant_id": grant_id,
        "kind": kind,
        "scopes": values.spaced(scopes),
        "issued_at": now,
        "expires_at": now + (ACCESS_LIFE if kind == ACCESS else REFRESH_LIFE),
        "used_at": None,
        "successor_hash": None,
    }
    if not connection.run(_INSERT, row):
        raise not_stored("mcp_tokens")


def rotate(connection: Connection, token_hash: str, successor: str, now: int) -> bool:
    """Mark a refresh token as exchanged; False if it was already."""
    row = {"old": token_hash, "successor": hashed(successor), "now": now}
    return connection.run(_ROTATE, row) > 0


def delete_of_grant(connection: Connection, grant_id: str) -> int:
    """Delete every token of a grant, and return how many there were."""
    return connection.run(_DELETE_OF_GRANT, {"grant_id": grant_id})


def _token(row: Row) -> McpToken:
    granted = values.read_spaced(row.scopes) or ()
    asked = values.read_spaced(row.token_scopes)
    return McpToken(
        kind=row.kind,
        grant_id=row.grant_id,
        client_id=row.client_id,
        user_id=row.user_id,
        scopes=granted if asked is None else tuple(s for s in granted if s in asked),
        resource=row.resource,
        expires_at=row.expires_at,
        used_at=row.used_at,
        is_revoked=row.revoked_at is not None,
    )
