"""``db current`` and ``db check``, which import neither click nor anything else that is slow."""

from __future__ import annotations

from typing import Any, Final

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.migrate.inspect import Inspection, inspect
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrate.summary import check_line, current_lines, repairs

#: The exit status of ``db check`` if a start would upgrade or repair the database.
PENDING: Final = 3


def current(output: Output, option: DatabaseOption) -> None:
    """Show the revision of the database; change nothing."""
    inspection = _inspect(output, option)
    output.result(inspection_facts(inspection), *current_lines(inspection))


def check(output: Output, option: DatabaseOption) -> int:
    """Exit 0 if the database is ready, 3 if an upgrade is pending.

    Changes nothing. Exits 1 if a start would refuse the database because of its revision or
    its tables. Keys and pages are checked by db doctor only.
    """
    inspection = _inspect(output, option)
    output.result(inspection_facts(inspection), check_line(inspection))
    return 0 if inspection.ready else PENDING


def _inspect(output: Output, option: DatabaseOption) -> Inspection:
    inspection = inspect(option.database(output))
    inspection.database.require_own_lock()
    inspection.accepted()
    inspection.require_usable()
    return inspection


def inspection_facts(inspection: Inspection) -> dict[str, Any]:
    """Return the result of both commands for ``--json``."""
    plan = inspection.plan
    return {
        "database": str(inspection.database),
        "exists": inspection.exists,
        "state": inspection.finding.state.value,
        "reason": inspection.finding.reason,
        "revision": inspection.recorded,
        "head": inspection.history.head,
        "ready": inspection.ready,
        "stamp": plan.stamp if plan else None,
        "pending": list(inspection.pending),
        "mends": [] if plan is None or plan.action is Action.CREATE else repairs(plan),
        "journal_mode": inspection.snapshot.journal_mode or None,
    }
