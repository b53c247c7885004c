"""MCP clients: those that registered here, and those described by a document on the web.

Registering is open to everybody, so a client that nobody uses is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Text, bindparam, delete, exists, func, literal, select

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Concern
from nextcloud_mcp_server.auth.secrets import Reading
from nextcloud_mcp_server.auth.statements import AT_ONCE, in_row, insertion, upsert
from nextcloud_mcp_server.backends.base import Row
from nextcloud_mcp_server.schema.tables import mcp_clients, mcp_grants

Kind = Literal["registered", "document"]

#: Seconds for which a client is kept that has never led to a grant.
UNUSED: Final = 86_400

#: Seconds for which a client is kept after its last grant: many remember their id for ever.
IDLE: Final = 90 * 86_400

_c: Final = mcp_clients.c
_REGISTER: Final = insertion(mcp_clients)
# last_used_at is changed by a grant alone.
_STORE: Final = upsert(mcp_clients, without=("last_used_at",))
_GET: Final = select(*_c, in_row(_c.client_id)).where(_c.client_id == bindparam("client_id"))
_used: Final = func.coalesce(_c.last_used_at + (IDLE - UNUSED), _c.created_at)
_is_unused: Final = (_used <= bindparam("now") - UNUSED) & ~exists(
    select(literal(1)).where(mcp_grants.c.client_id == _c.client_id)
)
_UNUSED: Final = (
    select(_c.client_id, literal(None, Text).label("user_id"))
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

    async def register(self, client_id: str, metadata: dict[str, Any]) -> None:
        """Store a new registered client.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` if the id
                exists.
        """
        row = {**self._row(client_id, metadata, "registered", None), "last_used_at": None}
        await self._write(_REGISTER, row, "register_mcp_client", at=row["created_at"])

    async def store_document(
        self, client_id: str, metadata: dict[str, Any], *, expires_at: int
    ) -> None:
        """Store the document of a client, which replaces the previous one.

        Args:
            client_id: its URL.
            metadata: its content.
            expires_at: when it must be fetched again, in whole seconds since 1970.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        row = self._row(client_id, metadata, "document", valid.seconds(expires_at, "expires_at"))
        await self._write(_STORE, row, "store_mcp_client", at=row["created_at"])

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
