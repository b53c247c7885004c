"""Delete what is expired or unused, and old audit entries, beside running servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, select

from nextcloud_mcp_server.auth import mcp_clients, mcp_grants, mcp_tokens
from nextcloud_mcp_server.auth.audit import AuditLog
from nextcloud_mcp_server.auth.browser_sessions import BrowserSessions
from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.auth.login_flows import LoginFlows
from nextcloud_mcp_server.auth.mcp_clients import McpClients
from nextcloud_mcp_server.auth.mcp_grants import McpGrants
from nextcloud_mcp_server.auth.mcp_tokens import McpTokens
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSessions
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.concurrency import run_coroutine
from nextcloud_mcp_server.crypto.keyfile import available_keyring
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import given_primary
from nextcloud_mcp_server.crypto.verification import Samples
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.at_head import open_at_head
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.schema.tables import metadata
from nextcloud_mcp_server.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Select

#: The concerns by their table. Not refresh tokens: one that is expired by a wrong clock would
#: be a lost grant.
_CONCERNS: Final[
    Mapping[
        str,
        type[LoginFlows | OAuthSessions | BrowserSessions | McpTokens | McpGrants | McpClients],
    ]
] = {
    "login_flow_sessions": LoginFlows,
    "oauth_sessions": OAuthSessions,
    "browser_sessions": BrowserSessions,
    # In this order: a grant ends with its tokens, and a client with its grants.
    "mcp_tokens": McpTokens,
    "mcp_grants": McpGrants,
    "mcp_clients": McpClients,
}

_COUNTS: Final[dict[str, Select[Any]]] = {
    name: select(func.count())
    .select_from(table)
    .where(table.c.expires_at <= bindparam("now"), *(k.is_not(None) for k in table.primary_key))
    for name, table in metadata.tables.items()
    if name in _CONCERNS and not name.startswith("mcp_")
}
_COUNTS["mcp_tokens"] = mcp_tokens.COUNT_EXPIRED
_COUNTS["mcp_grants"] = mcp_grants.COUNT_EXPIRED
_COUNTS["mcp_clients"] = mcp_clients.COUNT_EXPIRED


#: The log has no expiry: an age decides.
_AUDIT: Final = "audit_logs"


def count_expired(
    settings: Settings,
    clock: Callable[[], float] = time.time,
    *,
    audit_age: timedelta | None = None,
) -> dict[str, int]:
    """Return how many rows :func:`delete_expired` would delete now, by table.

    Raises:
        TokenStorageError: as :func:`~nextcloud_mcp_server.migrate.at_head.open_at_head`.
    """
    with _opened(settings, clock) as access:
        counts = run_coroutine(_count(access))
        if (before := _oldest_kept(access, audit_age)) is not None:
            counts[_AUDIT] = run_coroutine(AuditLog(access).count_before(before))
    return counts


def delete_expired(
    settings: Settings,
    clock: Callable[[], float] = time.time,
    report: Reporter = silent,
    *,
    audit_age: timedelta | None = None,
) -> dict[str, int]:
    """Delete what is expired or unused; return how many were deleted, by table.

    Works in batches, each of them a transaction with its entries in the audit log. Needs no key;
    with the one that encrypts, it signs the entries.

    Args:
        settings: name the database.
        clock: returns seconds since 1970.
        report: receives the table that is worked on.
        audit_age: also deletes the entries of the audit log that are older; if None, those
            older than the setting ``audit_retention_days``, if it is set.

    Raises:
        TokenStorageError: as :func:`~nextcloud_mcp_server.migrate.at_head.open_at_head`.
    """
    deleted = {}
    with _opened(settings, clock) as access:
        before = _oldest_kept(access, audit_age)
        steps = len(_CONCERNS) + (before is not None)
        if before is not None:
            # First: with the setting, each new entry would delete some of those that were counted.
            report(f"deleting old rows of {_AUDIT}", 0, steps, "tables")
            deleted[_AUDIT] = run_coroutine(AuditLog(access).delete_before(before))
        for name, concern in _CONCERNS.items():
            report(f"deleting expired rows of {name}", len(deleted), steps, "tables")
            deleted[name] = run_coroutine(concern(access).delete_expired())
    return deleted


def _oldest_kept(access: Access, age: timedelta | None) -> int | None:
    """Return the second from which on audit entries are kept; None to keep all."""
    if age is None and access.audit_retention_days is not None:
        age = timedelta(days=access.audit_retention_days)
    # No entry is from before 1970.
    return None if age is None else max(access.now() - int(age.total_seconds()), 0)


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
    keyring: Keyring | None = None

    def verify(_: Samples, known: Sequence[RegisteredKey]) -> None:
        # To sign the entries. Deleting needs no key: without the right one they are unsigned.
        nonlocal keyring
        with suppress(TokenStorageError):
            if (given := available_keyring(settings)) is not None:
                given_primary(known, given)
                keyring = given

    place = connect(settings.database)
    pool = open_at_head(place, verify=verify, lock_timeout=settings.lock_timeout)
    access = Access(clock)
    try:
        access.open(pool, keyring, settings.audit_retention_days)
        yield access
    finally:
        access.close()
        run_coroutine(pool.close())
