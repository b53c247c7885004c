"""Delete many rows that need no entry in the audit log, and see that a write was carried out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nextcloud_mcp_server.auth.statements import AT_ONCE, affected
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.errors import TokenStorageError

if TYPE_CHECKING:
    from sqlalchemy import Delete

    from nextcloud_mcp_server.auth.context import Access


async def delete_pages(access: Access, statement: Delete, parameters: Mapping[str, Any]) -> int:
    """Delete rows page by page, so that others can write in between; return how many.

    Args:
        access: to the database.
        statement: deletes at most :data:`~.statements.AT_ONCE` rows.
        parameters: of the statement.

    Raises:
        TokenStorageError: ``ignored`` if a trigger keeps them.
    """

    def unit(connection: Connection) -> int:
        gone = connection.run(statement, parameters)
        if not gone and connection.first(affected(statement), parameters):
            raise not_stored(str(statement.table))
        return gone

    deleted = 0
    while True:
        begun = time.monotonic()
        gone = await access.write(unit)
        deleted += gone
        if gone < AT_ONCE:
            return deleted
        # As long again for the writers of other processes.
        await asyncio.sleep(time.monotonic() - begun)


def not_stored(table: str) -> TokenStorageError:
    """Return the error for a write that the database acknowledged and did not carry out."""
    return TokenStorageError(
        f"A row of {table} could not be written: a trigger of the database ignored the "
        "statement or undid it, and nothing was changed.",
        code="ignored",
        remedy=f"List the triggers (in sqlite3: .schema), and drop the one that touches {table}.",
    )
