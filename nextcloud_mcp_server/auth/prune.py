"""Delete the expired rows that are meant to exist for minutes or hours, beside running servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import bindparam, func, select

from nextcloud_mcp_server.auth.browser_sessions import BrowserSessions
from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.auth.login_flows import LoginFlows
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSessions
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.concurrency import run_coroutine
from nextcloud_mcp_server.migrate.at_head import open_at_head
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.schema.tables import metadata
from nextcloud_mcp_server.settings import Settings

#: The concerns by their table. Not refresh tokens: one that is expired by a wrong clock would
#: be a lost grant.
_CONCERNS: Final[Mapping[str, type[LoginFlows | OAuthSessions | BrowserSessions]]] = {
    "login_flow_sessions": LoginFlows,
    "oauth_sessions": OAuthSessions,
    "browser_sessions": BrowserSessions,
}

_COUNTS: Final = {
    name: select(func.count())
    .select_from(table)
    .where(table.c.expires_at <= bindparam("now"), *(key > "" for key in table.primary_key))
    for name, table in metadata.tables.items()
    if name in _CONCERNS
}


def count_expired(settings: Settings, clock: Callable[[], float] = time.time) -> dict[str, int]:
    """Return how many rows :func:`delete_expired` would delete now, by table.

    Raises:
        TokenStorageError: as :func:`~nextcloud_mcp_server.migrate.at_head.open_at_head`.
    """
    with _opened(settings, clock) as access:
        return run_coroutine(_count(access))


def delete_expired(
    settings: Settings, clock: Callable[[], float] = time.time, report: Reporter = silent
) -> dict[str, int]:
    """Delete the expired login flows and sessions; return how many were deleted, by table.

    Works in batches, each of them a transaction with its entries in the audit log. Needs no key.

    Raises:
        TokenStorageError: as :func:`~nextcloud_mcp_server.migrate.at_head.open_at_head`.
    """
    deleted = {}
    with _opened(settings, clock) as access:
        for place, (name, concern) in enumerate(_CONCERNS.items()):
            report(f"deleting expired rows of {name}", place, len(_CONCERNS), "tables")
            deleted[name] = run_coroutine(concern(access).delete_expired())
    return deleted


async def _count(access: Access) -> dict[str, int]:
    now: Mapping[str, Any] = {"now": access.now()}

    def unit(connection: Connection) -> dict[str, int]:
        counts = {}
        for name in _CONCERNS:
            row = connection.first(_COUNTS[name], now)
            counts[name] = 0 if row is None else int(row[0])
        return counts

    return await access.read(unit)


@contextmanager
def _opened(settings: Settings, clock: Callable[[], float]) -> Iterator[Access]:
    pool = open_at_head(connect(settings.database), lock_timeout=settings.lock_timeout)
    access = Access(clock)
    try:
        access.open(pool, None, settings.audit_retention_days)
        yield access
    finally:
        access.close()
        run_coroutine(pool.close())
