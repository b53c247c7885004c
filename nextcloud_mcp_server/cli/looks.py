"""The commands that only look, without click and without anything else that is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.cli import words
from nextcloud_mcp_server.report import examine

if TYPE_CHECKING:
    from nextcloud_mcp_server.cli.named import Named
    from nextcloud_mcp_server.cli.output import Output

#: What ``db check`` exits with where a start would upgrade or mend.
PENDING: Final = 3


def current(output: Output, named: Named) -> int:
    """Say at which revision the database is; change nothing."""
    report = examine(named.locate(output).database)
    if report.refusal:
        raise report.refusal
    output.result(words.report_facts(report), *words.current_lines(report))
    return 0


def check(output: Output, named: Named) -> int:
    """Exit 0 where it is ready, 3 where an upgrade is pending.

    Changes nothing. Exits 1 where a start would refuse what its version and its tables are. Keys
    and pages are left to db doctor.
    """
    report = examine(named.locate(output).database)
    if report.refusal:
        raise report.refusal
    output.result(words.report_facts(report), words.check_line(report))
    return 0 if report.ready else PENDING
