"""Plan the repair of a database's tables. Changes nothing."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.catalog import count
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.integrity import check_file, references
from nextcloud_mcp_server.maintenance.corrections import (
    corrected_state,
    leftover_tables,
    outlived_tables,
)
from nextcloud_mcp_server.maintenance.indexes import only_indexes
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.plan import Finding, State, refusal
from nextcloud_mcp_server.migrate.referenced import may_reference
from nextcloud_mcp_server.migrate.referenced import refusal as referenced
from nextcloud_mcp_server.schema.history import History


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What must be repaired in the tables before a start accepts them.

    ``finding`` is the state after the version table is dropped, if it is. The tables in ``drops``
    are dropped if they are empty, those in ``outlived``, which a revision drops, with their rows.
    """

    finding: Finding
    replaces_version: bool = False
    drops: tuple[str, ...] = ()
    outlived: tuple[str, ...] = ()
    indexes: bool = False

    @property
    def restructures(self) -> bool:
        """Whether the tables are changed, and so upgraded to head."""
        state = self.finding
        unrecorded = state.state is State.PRE_ALEMBIC
        incomplete = state.gaps or state.adopted or state.unusable or not state.tidy or unrecorded
        return bool(self.replaces_version or self.drops or self.outlived or incomplete)


def plan_repair(
    source: Path, seen: Snapshot, history: History, path: Path | None = None
) -> RepairPlan:
    """Return what a database needs; ``path`` is its name in errors if ``source`` is a copy.

    Raises:
        TokenStorageError: the state's own code if nothing safe repairs it;
            ``migration-failed`` if rows reference a table that would be dropped.
    """
    database = SqliteDatabase(path or source)
    finding = classify(seen, history)
    corrected = corrected_state(seen, history)
    if finding.refused and corrected is None:
        raise refusal(finding, history, database)
    if not seen.journal_mode:
        return RepairPlan(finding)
    damage = check_file(source, "integrity_check").damage
    if damage and not only_indexes(source):
        raise refusal(Finding(State.CORRUPT, reason="; ".join(damage[:3])), history, database)
    leftovers = leftover_tables(seen.structure, history)
    after = corrected or finding
    outlived = outlived_tables(seen.structure, history, after.base)
    tables = may_reference(seen.structure, history) if outlived else []
    with naming(source), closing(connect_read_only(source)) as connection:
        drops = tuple(table for table in leftovers if not count(connection.execute, table))
        found = references(connection.execute, tables, outlived) if tables else []
    if found:
        raise referenced(found, outlived, database, "be repaired")
    return RepairPlan(
        after,
        replaces_version=corrected is not None and not finding.lost,
        drops=drops,
        outlived=tuple(outlived),
        indexes=bool(damage),
    )
