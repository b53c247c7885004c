"""``db current`` and ``db check``, which import neither click nor anything else that is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server.migrate.inspect import Report, examine
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrate.summary import check_line, current_lines, repairs

if TYPE_CHECKING:
    from nextcloud_mcp_server.cli.database import DatabaseOption
    from nextcloud_mcp_server.cli.output import Output


#: The exit status of ``db check`` if a start would upgrade or repair the database.
PENDING: Final = 3


def current(output: Output, option: DatabaseOption) -> int:
    """Show the revision of the database; change nothing."""
    report = _inspect(output, option)
    output.result(report_facts(report), *current_lines(report))
    return 0


def check(output: Output, option: DatabaseOption) -> int:
    """Exit 0 if the database is ready, 3 if an upgrade is pending.

    Changes nothing. Exits 1 if a start would refuse the database because of its revision or
    its tables. Keys and pages are checked by db doctor only.
    """
    report = _inspect(output, option)
    output.result(report_facts(report), check_line(report))
    return 0 if report.ready else PENDING


def _inspect(output: Output, option: DatabaseOption) -> Report:
    report = examine(option.locate(output).database)
    if report.refusal:
        raise report.refusal
    return report


def report_facts(report: Report) -> dict[str, Any]:
    """Return the result of both commands for ``--json``."""
    todo = report.todo
    return {
        "database": str(report.database),
        "exists": report.exists,
        "state": report.finding.state.value,
        "reason": report.finding.reason,
        "revision": report.finding.recorded,
        "head": report.head,
        "ready": report.ready,
        "stamp": todo.stamp if todo else None,
        "pending": list(report.pending),
        "mends": [] if todo is None or todo.action is Action.CREATE else repairs(todo),
        "journal_mode": report.journal_mode or None,
    }
