"""MCP clients: those that registered here, and those described by a document on the web.

Registering is open to everybody, so a client that nobody uses is deleted, there is a limit for
their number, and the audit log has entries only for those that somebody has used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Text, bindparam, delete, exists, func, literal, select

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Concern
from nextcloud_mcp_server.auth.secrets import Reading
from nextcloud_mcp_server.auth.statements import AT_ONCE, Upsert, in_row, insertion, upsert
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.schema.tables import mcp_clients, mcp_grants

if TYPE_CHECKING:
    from sqlalchemy import Executable

Kind = Literal["registered", "document"]

#: Seconds for which a client is kept that has never led to a grant.
UNUSED: Final = 86_400

#: Seconds for which a client is kept after its last grant: many remember their id for ever.
IDLE: Final = 90 * 86_400

#: Clients that were never used. If there are so many, a new one takes the place of the oldest,
#: which has had this many seconds for a sign-in.
MOST_UNUSED: Final = 10_000
SAFE: Final = 3_600

_c: Final = mcp_clients.c
_REGISTER: Final = insertion(mcp_clients)
# last_used_at is changed by a grant alone.
_STORE: Final = upsert(mcp_clients, without=("last_used_at",))
_GET: Final = select(*_c, in_row(_c.client_id)).where(_c.client_id == bindparam("client_id"))
_used: Final = func.coalesce(_c.last_used_at + (IDLE - UNUSED), _c.created_at)
_has_grant: Final = exists(select(literal(1)).where(mcp_grants.c.client_id == _c.client_id))
_is_unused: Final = (_used <= bindparam("now") - UNUSED) & ~_has_grant
_COUNT_NEVER_USED: Final = (
    select(func.count()).select_from(mcp_clients).where(_c.last_used_at.is_(None))
)
_is_replaceable: Final = (
    _c.last_used_at.is_(None) & (_c.created_at <= bindparam("now") - SAFE) & ~_has_grant
)
_OLDEST: Final = (
    select(_c.client_id).where(_is_replaceable).order_by(_c.created_at, _c.client_id).limit(1)
)
_DELETE_OLDEST: Final = delete(mcp_clients).where(
    _c.client_id == bindparam("client_id"), _is_replaceable
)
_UNUSED: Final = (
    select(_c.client_id, _c.last_used_at, literal(None, Text).label("user_id"))
    .where(_is_unused)
    .order_by(_c.client_id)
    .limit(AT_ONCE)
)
_DELETE_UNUSED: Final = delete(mcp_clients).where(
    _c.client_id == bindparam("client_id"), _is_unused
)
#: How many :meth:`McpClients.delete_expired` would delete, at the parameter ``now``.
COUNT_EXPIRED: Final = select(func.count()).select_from(mcp_clients).where(_is_unused)


@dataclass(frozen=True, slots=True)
class McpClient:
    """A client. Times are whole seconds since 1970.

    ``metadata`` is what RFC 7591 defines. ``expires_at`` is when a document must be fetched
    again; None for a registered client.
    """

    client_id: str
    metadata: dict[str, Any]
    kind: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None


class McpClients(Concern):
    """The MCP clients. All of them are public: they have no secret."""

    _table = "mcp_clients"
    _key = "client_id"

    async def register(self, client_id: str, metadata: dict[str, Any]) -> bool:
        """Store a new registered client.

        Returns:
            False if there are :data:`MOST_UNUSED` that were never used, all younger than an hour.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` if the id
                exists.
        """
        row = {**self._row(client_id, metadata, "registered", None), "last_used_at": None}
        return await self._store(_REGISTER, row)

    async def store_document(
        self, client_id: str, metadata: dict[str, Any], *, expires_at: int
    ) -> bool:
        """Store the document of a client, which replaces the previous one.

        Args:
            client_id: its URL.
            metadata: its content.
            expires_at: when it must be fetched again, in whole seconds since 1970.

        Returns:
            False as :meth:`register`, if the client is new.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        row = self._row(client_id, metadata, "document", valid.seconds(expires_at, "expires_at"))
        return await self._store(_STORE, row)

    async def _store(self, statement: Executable, row: dict[str, Any]) -> bool:
        now = row["created_at"]

        def unit(connection: Connection) -> bool:
            previous = connection.first(_GET, {"client_id": row["client_id"]})
            if previous is None and not self._make_room(connection, now):
                return False
            following = self._change(connection, statement, row)
            # Where its answers go can change with its document.
            if (
                previous is not None
                and previous.last_used_at is not None
                and previous.metadata != row["metadata"]
            ):
                self._record(
                    connection, "store_mcp_client", None, at=now, row=row, following=following
                )
            if connection.has_triggers:
                self._require_kept(connection, statement, row)
            return True

        return await self._access.write(unit, again=isinstance(statement, Upsert))

    def _make_room(self, connection: Connection, now: int) -> bool:
        """Delete the oldest client that was never used if there are too many; False if it is young.

        A client that has just registered is safe from those who register thousands.
        """
        counted = connection.first(_COUNT_NEVER_USED, {})
        if counted is None or counted[0] < MOST_UNUSED:
            return True
        oldest = connection.first(_OLDEST, {"now": now})
        if oldest is None:
            return False
        connection.run(_DELETE_OLDEST, {"now": now, "client_id": oldest.client_id})
        return True

    async def get(self, client_id: str) -> McpClient | None:
        """Return the client, or None.

        Raises:
            TokenStorageError: ``unreadable``.
        """
        key = {"client_id": valid.text(client_id, "client_id")}
        return await self._get(_GET, key, _client)

    async def delete_expired(self) -> int:
        """Delete the clients that nobody uses; return how many there were."""
        return await self._delete_all(_UNUSED, _DELETE_UNUSED, "delete_unused_mcp_client")

    def _is_recorded(self, row: Row) -> bool:
        """Return whether the deletion of a client has an entry: if somebody has used it."""
        return row.last_used_at is not None

    def _row(
        self, client_id: str, metadata: dict[str, Any], kind: Kind, expires_at: int | None
    ) -> dict[str, Any]:
        return {
            "client_id": valid.text(client_id, "client_id"),
            "metadata": valid.profile(metadata),
            "kind": kind,
            "created_at": self._access.now(),
            "expires_at": expires_at,
        }


def _client(row: Row, reading: Reading) -> McpClient:
    return McpClient(
        client_id=row.client_id,
        metadata=values.read_json_dict(row.metadata, f"mcp_clients.metadata of {row.client_id!r}"),
        kind=row.kind,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
    )
