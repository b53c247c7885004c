"""What a downgrade comes to, found out before anybody is asked to agree to it.

Nothing is locked, so that nobody waits while a person thinks, and nothing changes. What is
refused here is looked for again under the lock.
"""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.backends.sqlite.inuse import require_idle
from nextcloud_mcp_server.backends.sqlite.look import check_pages, observed
from nextcloud_mcp_server.backends.sqlite.session import require_writable
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.found import Unlock, prove
from nextcloud_mcp_server.history import BASE, History
from nextcloud_mcp_server.report import Report, downgrade_target, examine, known_history
from nextcloud_mcp_server.state import Finding, State, refusal
from nextcloud_mcp_server.structure import Structure


def propose_downgrade(
    database: Path,
    revision: str | None = None,
    *,
    while_running: bool = False,
    unlock: Unlock | None = None,
) -> tuple[Report, str]:
    """What the database is, and the id (or ``base``) that a downgrade of it ends at.

    The arguments are those of :func:`~nextcloud_mcp_server.upkeep.downgrade`.

    Raises:
        TokenStorageError: as that, where it is known without the lock.
    """
    report, history = examine(database), known_history()
    target = downgrade_target(report, revision)
    require_idle(report.database, while_running=while_running)
    require_writable(report.database)
    with observed(report.database) as (source, seen):
        if damage := check_pages(source):
            raise refusal(Finding(State.CORRUPT, reason=damage), history, report.database)
        if target == BASE:
            require_a_way_up(report.database, seen.structure, history)
        prove(unlock, source, seen, report.finding.adopted)
    return report, target


def require_a_way_up(database: Path, structure: Structure, history: History) -> None:
    """Refuse a way down to base that has no way up again.

    Raises:
        TokenStorageError: ``bad-input`` where the database also holds what is not ours.
    """
    known = {name for r in history.revisions for name in history.structure(r).tables}
    if strangers := sorted((structure.own_tables | structure.others) - known):
        raise TokenStorageError(
            f"{database} also holds {', '.join(strangers)}: at base nothing would tell it from "
            "another application's database, and no start would touch it.",
            code="bad-input",
            remedy="Move them out first, or begin with a new file instead of going to base.",
        )
