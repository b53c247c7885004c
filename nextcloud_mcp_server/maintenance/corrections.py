"""Corrections that make a refused database acceptable to a start. Pure: opens no file.

A start only adds what is missing. On request, a version table that contradicts the tables
can be replaced too, and what held lost secrets is added, empty. If ``refresh_tokens`` is lost
or a newer release wrote the file, there is no correction.
"""

from __future__ import annotations

from typing import Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.migrate.classify import TEMPORARY, classify, is_mistyped, reused_names
from nextcloud_mcp_server.migrate.plan import Finding, State
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Structure

_CORRECTABLE: Final = frozenset(
    {State.AMBIGUOUS_VERSION, State.INCONSISTENT, State.UNKNOWN_REVISION}
)

#: The prefix of the copy that holds the rows of a cache while the cache is recreated.
REPLACED: Final = "_replaced_"


def corrected_state(seen: Snapshot, history: History) -> Finding | None:
    """Return the state of a refused database after a repair.

    A repair adds what held lost secrets, empty, or drops the version table. None if the
    database is not refused, or would still be.
    """
    finding = classify(seen, history)
    if finding.lost:
        return classify(seen, history, accept_loss=True)
    if finding.state not in _CORRECTABLE:
        return None
    if finding.state is State.UNKNOWN_REVISION and not is_mistyped(seen, history):
        return None
    tables = dict(seen.structure.tables)
    tables.pop(VERSION_TABLE, None)
    seen = seen._replace(
        versions=None, version_column=True, structure=seen.structure._replace(tables=tables)
    )
    corrected = classify(seen, history)
    return None if corrected.refused or corrected.state is State.NEW else corrected


def leftover_tables(seen: Structure, history: History) -> list[str]:
    """Return the copies that an interrupted recreation left beside the original table."""
    originals = history.shapes.keys() & seen.tables.keys()
    copies = {prefix + name for name in originals for prefix in (TEMPORARY, REPLACED)}
    return sorted(copies & seen.tables.keys())


def outlived_tables(seen: Structure, history: History, base: str | None) -> dict[str, str]:
    """Return the tables that ``base`` or an earlier revision drops, each with that revision."""
    if base is None:
        return {}
    reused = reused_names(seen, history, base)
    return {
        name: history.dropped_by(name)
        for name in sorted((history.dropped_before(base) & seen.tables.keys()) - reused)
    }
