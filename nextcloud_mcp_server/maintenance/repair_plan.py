"""What the tables of a database need before a start would serve them. Nothing changes here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.catalog import count
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.maintenance.corrections import Rename, amends, leftover_tables
from nextcloud_mcp_server.maintenance.indexes import damage, only_indexes
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.plan import Finding, State, refusal
from nextcloud_mcp_server.schema.history import History


@dataclass(frozen=True, slots=True)
class Treatment:
    """What the tables need before a start would serve them.

    Attributes:
        finding: what the database is then.
        renames: columns to rename back.
        forgets: whether the version table is made anew.
        drops: leftover tables to drop, as long as they are empty.
        indexes: whether its indexes are damaged.
    """

    finding: Finding
    renames: tuple[Rename, ...] = ()
    forgets: bool = False
    drops: tuple[str, ...] = ()
    indexes: bool = False

    @property
    def restructures(self) -> bool:
        """Whether the tables are changed, and so brought to head."""
        owed = self.finding
        unrecorded = owed.state is State.PRE_ALEMBIC
        mends = owed.gaps or owed.adopted or owed.unusable or not owed.tidy or unrecorded
        return bool(self.renames or self.forgets or self.drops or mends)


def treatment_of(
    source: Path, seen: Snapshot, history: History, path: Path | None = None
) -> Treatment:
    """What a database needs.

    Args:
        source: where its pages are read.
        seen: what a look at it has seen.
        history: the revisions of this program.
        path: the database itself, for the words of a refusal, where ``source`` is a copy.

    Raises:
        TokenStorageError: the state's own code where nothing safe mends it.
    """
    path = path or source
    finding = classify(seen, history)
    found = amends(seen, history)
    if finding.refused and found is None:
        raise refusal(finding, history, path)
    if not seen.journal_mode:
        return Treatment(finding)
    complaints = damage(source, "integrity_check")
    if complaints and not only_indexes(source):
        raise refusal(Finding(State.CORRUPT, reason="; ".join(complaints[:3])), history, path)
    return Treatment(
        found.finding if found else finding,
        found.renames if found else (),
        forgets=bool(found and found.forgets),
        drops=tuple(_empty_leftovers(source, seen, history)),
        indexes=bool(complaints),
    )


def _empty_leftovers(path: Path, seen: Snapshot, history: History) -> Iterator[str]:
    with naming(path), closing(connect_read_only(path)) as connection:
        for table in leftover_tables(seen.structure, history):
            if not count(connection.execute, table):
                yield table
