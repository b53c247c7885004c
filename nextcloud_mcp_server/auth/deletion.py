"""Deletions that several concerns make, each with its entry in the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nextcloud_mcp_server.auth.audit import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Delete, Select

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection


async def delete_one(
    access: Access,
    statement: Delete,
    key: Mapping[str, Any],
    *,
    event: str,
    user_id: str,
    auth_method: str,
) -> bool:
    """Delete the row of ``key``; False where there was none, which records nothing."""
    now = access.now()

    def unit(connection: Connection) -> bool:
        if not connection.run(statement, key):
            return False
        record(connection, access, event, user_id, at=now, auth_method=auth_method)
        return True

    return await access.write(unit)


async def delete_expired(
    access: Access, expired: Select[Any], statement: Delete, *, event: str, auth_method: str
) -> int:
    """Delete the row of every user whose time is over; how many there were.

    Args:
        access: the open store.
        expired: finds the ``user_id`` of each, ``now``.
        statement: deletes the row of one ``user_id``, where it is over ``now``.
        event: what is recorded of each.
        auth_method: the same.
    """
    now = access.now()

    def unit(connection: Connection) -> int:
        deleted = 0
        for row in connection.all(expired, {"now": now}):
            # Asked again in the deletion: between the two it may have been renewed.
            if connection.run(statement, {"user_id": row.user_id, "now": now}):
                deleted += 1
                record(connection, access, event, row.user_id, at=now, auth_method=auth_method)
        return deleted

    return await access.write(unit)
