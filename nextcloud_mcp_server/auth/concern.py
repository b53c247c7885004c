"""The base of the concerns: each change and its entry in the audit log are one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from nextcloud_mcp_server.auth.audit import SYSTEM, record
from nextcloud_mcp_server.auth.values import check_row, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Delete, Executable, Select

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row

T = TypeVar("T")


class Concern:
    """One concern of the store, usually one table."""

    __slots__ = ("_access",)

    _table: ClassVar[str]
    #: The key of the table.
    _key: ClassVar[str] = "user_id"
    #: ``auth_method`` and ``resource_type`` of the entries in the audit log.
    _auth_method: ClassVar[str | None] = None
    _resource_type: ClassVar[str | None] = None

    def __init__(self, access: Access) -> None:
        self._access = access

    async def _get(
        self, statement: Select[Any], key: Mapping[str, Any], read: Callable[[Row, Access], T]
    ) -> T | None:
        """Read the first row; None if there is none.

        Args:
            statement: selects the row; with :func:`~.statements.in_row` if it looks up a key.
            key: the parameters.
            read: makes the result. It runs off the event loop, because decrypting is slow.
        """
        access = self._access

        def unit(connection: Connection) -> T | None:
            row = connection.first(statement, key)
            if row is None:
                return None
            if "own" in row._fields:
                [asked] = key.values()
                check_row(asked, row.own, self._table, secret=self._resource_type is not None)
            return read(row, access)

        return await access.read(unit)

    async def _write(
        self,
        statement: Executable,
        parameters: Mapping[str, Any],
        event: str,
        user_id: str | None = None,
        *,
        at: int | None = None,
        session_id: str | None = None,
    ) -> bool:
        """Run ``statement`` and record ``event``; False, and no entry, if no row was changed."""
        now = self._access.now() if at is None else at

        def unit(connection: Connection) -> bool:
            if not connection.run(statement, parameters):
                return False
            self._record(connection, event, user_id, now, session_id)
            return True

        return await self._access.write(unit)

    async def _delete_all(
        self, rows: Select[Any], statement: Delete, parameters: Mapping[str, Any], event: str
    ) -> int:
        """Delete each of ``rows`` and record ``event`` for it; return how many were deleted.

        Args:
            rows: selects at least the key and ``user_id``.
            statement: deletes the row of one key. It repeats the condition of ``rows`` if
                that can change meanwhile.
            parameters: those of both statements, without the key.
            event: the event in the audit log.
        """
        now = self._access.now()

        def unit(connection: Connection) -> int:
            deleted = 0
            for row in connection.all(rows, parameters):
                key = getattr(row, self._key)
                if connection.run(statement, {**parameters, self._key: key}):
                    deleted += 1
                    session_id = key if self._resource_type else None
                    self._record(connection, event, row.user_id, now, session_id)
            return deleted

        return await self._access.write(unit)

    def _record(
        self,
        connection: Connection,
        event: str,
        user_id: str | None,
        at: int,
        session_id: str | None = None,
    ) -> None:
        record(
            connection,
            self._access,
            event,
            user_id or SYSTEM,
            at=at,
            auth_method=self._auth_method,
            resource_type=self._resource_type,
            resource_id=None if session_id is None else shown(session_id),
        )
