"""The number of an audit entry and the key that encrypts come with the change itself."""

from __future__ import annotations

import asyncio
from contextlib import closing

import psycopg
from sqlalchemy import bindparam, delete

from nextcloud_mcp_server.auth.audit import NEXT
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.schema.tables import refresh_tokens
from tests.auth.helpers import KEYRING
from tests.support.contents import KEY
from tests.support.postgresql import Server

_DELETE = delete(refresh_tokens).where(refresh_tokens.c.user_id == bindparam("user_id"))
_WAITING = "SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted"
_NUMBER = "SELECT nextval(pg_get_serial_sequence('audit_logs', 'id'))"


async def test_a_change_returns_what_follows_it(storage: RefreshTokenStorage) -> None:
    """The number and the key for a row that is changed, and nothing without one."""
    await storage.store_refresh_token("alice", "one")
    [entry] = await storage.audit.list()

    def unit(connection: Connection) -> None:
        assert connection.change(_DELETE, NEXT, {"user_id": "nobody"}) is None
        following = connection.change(_DELETE, NEXT, {"user_id": "alice"})
        assert following is not None
        assert following.id > entry.id
        assert following.key == KEYRING.keys[0].id
        assert connection.change(_DELETE, NEXT, {"user_id": "alice"}) is None

    await storage._access.write(unit)


async def test_who_writes_a_row_first_has_the_lower_number(postgresql_server: Server) -> None:
    """A writer that waits for a row gets its number only when it has the row."""
    url = postgresql_server.schema_at_head()[1]
    async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "one")
        with closing(psycopg.connect(url)) as other:
            other.execute("UPDATE refresh_tokens SET updated_at = updated_at")
            waiting = asyncio.create_task(storage.store_refresh_token("alice", "two"))
            while other.execute(_WAITING).fetchall() == [(0,)]:  # noqa: ASYNC110 - a server
                await asyncio.sleep(0.01)
            [(number,)] = other.execute(_NUMBER).fetchall()
            other.commit()
            await waiting
        [newest, *_] = await storage.audit.list()
        assert newest.id > number
