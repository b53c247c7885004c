"""The commands that only look, without click and without anything else that is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server.errors import printable
from nextcloud_mcp_server.migrate.inspect import Report, examine
from nextcloud_mcp_server.migrate.plan import Action, State
from nextcloud_mcp_server.migrate.summary import mends, plan_words

if TYPE_CHECKING:
    from nextcloud_mcp_server.cli.database import Named
    from nextcloud_mcp_server.cli.output import Output


#: What ``db check`` exits with where a start would upgrade or mend.
PENDING: Final = 3


def current(output: Output, named: Named) -> int:
    """Say at which revision the database is; change nothing."""
    report = examine(named.locate(output).database)
    if report.refusal:
        raise report.refusal
    output.result(report_facts(report), *current_lines(report))
    return 0


def check(output: Output, named: Named) -> int:
    """Exit 0 where it is ready, 3 where an upgrade is pending.

    Changes nothing. Exits 1 where a start would refuse what its version and its tables are. Keys
    and pages are left to db doctor.
    """
    report = examine(named.locate(output).database)
    if report.refusal:
        raise report.refusal
    output.result(report_facts(report), check_line(report))
    return 0 if report.ready else PENDING


def current_lines(report: Report) -> tuple[str, ...]:
    """What a database is, and what an upgrade would do to it."""
    first = {
        State.AT_HEAD: f"{report.finding.recorded} (head)",
        State.BEHIND: f"{report.finding.recorded} (behind; head is {report.head})",
        State.PRE_ALEMBIC: "unversioned (its tables are there, and no revision is recorded)",
        State.NEW: "empty (there is no table in it)" if report.exists else "missing (no file)",
    }[report.finding.state]
    return (first, *([pending_line(report)] if not report.ready else []))


def check_line(report: Report) -> str:
    """Whether a database is ready, in one line."""
    path = printable(str(report.database))
    if report.ready:
        return f"ready: {path} is at head, {report.head}"
    return f"pending: {path}: {pending_line(report)}"


def pending_line(report: Report) -> str:
    """What an upgrade would do."""
    if report.todo is None:
        raise ValueError("a refused database has nothing pending")
    return f"an upgrade {plan_words(report.todo)}"


def report_facts(report: Report) -> dict[str, Any]:
    """What ``db current`` and ``db check`` say, for ``--json``."""
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
        "mends": [] if todo is None or todo.action is Action.CREATE else mends(todo),
        "journal_mode": report.journal_mode or None,
    }
