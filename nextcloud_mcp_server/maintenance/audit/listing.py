"""List entries of the audit log, each with whether its code is right. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nextcloud_mcp_server.auth.audit import AuditEntry, Code, code_of, key_of
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.audit.reader import reading
from nextcloud_mcp_server.settings import Settings


class Listed(NamedTuple):
    """An entry, whether its code is right, and the name of the key that made it."""

    entry: AuditEntry
    code: Code
    key: str


class Listing(NamedTuple):
    """The entries, newest first, and whether there is a database and a log."""

    entries: Sequence[Listed]
    exists: bool
    has_log: bool


def list_entries(
    settings: Settings,
    keyring: Keyring | None,
    *,
    user_id: str | None = None,
    since: int = 0,
    limit: int = 100,
) -> Listing:
    """Return the newest ``limit`` entries from ``since`` on (seconds since 1970).

    Args:
        settings: name the database.
        keyring: checks the codes; None to check none.
        user_id: only those of this user; None for all.
        since: the earliest second.
        limit: the most entries.

    Raises:
        TokenStorageError: the database cannot be read, or has no audit log and is refused.
    """
    with reading(connect(settings.database)) as (inspection, reader):
        if reader is None:
            return Listing((), inspection.exists, has_log=False)
        mark = reader.source.mark
        given: tuple[Any, ...] = since, limit
        where = f"timestamp >= {mark}"
        if user_id is not None:
            where, given = f"user_id = {mark} AND {where}", (user_id, *given)
        rest = f"WHERE {where} ORDER BY timestamp DESC, id DESC LIMIT {mark}"
        with reader.source.moment():
            known = reader.signatures(keyring)
            found = [
                Listed(entry, code_of(entry, known), name_of(entry, known.names))
                for entry in reader.entries(rest, given)
            ]
        return Listing(found, inspection.exists, has_log=True)


def name_of(entry: AuditEntry, names: Mapping[str, str]) -> str:
    """Return the fingerprint of the key of an entry's code, or its id; empty without a code."""
    key = key_of(entry)
    return names.get(key, key)
