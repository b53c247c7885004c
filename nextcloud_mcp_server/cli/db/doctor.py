"""``db doctor``: list the problems of a database, with the commands that fix them."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import counted, printable
from nextcloud_mcp_server.maintenance.doctor.finding import WORST_FIRST, Finding, Level

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.doctor.run import Diagnosis


#: The phase that takes long if a database is large.
CHECKING: Final = "checking the database"

#: Columns that the text of a finding gets at least.
_NARROWEST: Final = 30

#: Levels without a plural: "2 ok".
_ADJECTIVES: Final = frozenset({Level.OK, Level.UNKNOWN})


@click.command()
@database_options
@click.option("--full", is_flag=True, help="Check every index entry and every backup as well.")
def doctor(output: Output, option: DatabaseOption, *, full: bool) -> int:
    """Check the database and list its problems, most severe first.

    Prints one line per check, with the command that fixes the problem. Changes nothing.
    Exits 1 if there is an error, 3 if there is none but something could not be checked, and
    0 if there are only warnings and notes.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.doctor.run import diagnose

    settings = option.settings(output)
    with phases(output, CHECKING):
        diagnosis = diagnose(settings, full=full)
    document = {
        "database": str(diagnosis.database),
        "worst": diagnosis.worst.value,
        "findings": [finding_facts(finding) for finding in diagnosis.findings],
    }
    lines = (line for found in diagnosis.findings for line in finding_lines(output, found))
    place = connect(settings.database).option
    output.result(document, *lines, *_summary_lines(diagnosis, place))
    if diagnosis.worst is Level.ERROR:
        return 1
    return 3 if diagnosis.unknown else 0


def finding_line(finding: Finding, *, fix: bool = True) -> str:
    """Return one finding as a line, with the command that fixes it."""
    command = f"; fix it: {finding.command}" if fix and finding.command else ""
    return printable(f"{finding.level:<7}  {finding.check}: {finding.message}{command}")


def finding_lines(output: Output, finding: Finding) -> list[str]:
    """Return one finding as one line; on a terminal wrapped, with the level in colour."""
    columns = output.columns()
    if columns is None:
        return [finding_line(finding)]
    level, rest = f"{finding.level:<7}", finding_line(finding, fix=False)[7:]
    lines = textwrap.wrap(
        rest,
        max(columns - 7, _NARROWEST),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    # On a line of its own, and whole, so that it can be copied.
    fix = [f"         fix it: {printable(finding.command)}"] if finding.command else []
    first = f"{output.level(level, finding.level.value)}  {lines[0].lstrip()}"
    return [first, *(f"       {line}" for line in lines[1:]), *fix]


def finding_facts(finding: Finding) -> dict[str, Any]:
    """Return one finding for ``--json``."""
    return {
        "check": finding.check,
        "level": finding.level.value,
        "message": finding.message,
        "mend": finding.command,
        "mendable": finding.fixable,
    }


def _summary_lines(diagnosis: Diagnosis, option: str) -> list[str]:
    """Return how many findings of each level there are, and the command that fixes some."""
    numbers = Counter(finding.level for finding in diagnosis.findings)
    parts = ", ".join(
        f"{numbers[level]} {level}" if level in _ADJECTIVES else counted(numbers[level], level)
        for level in WORST_FIRST
        if numbers[level]
    )
    if not diagnosis.fixable:
        return [parts]
    command = printable(f"nextcloud-mcp-server db repair {option}")
    return [parts, f"to fix {len(diagnosis.fixable)} of them: {command}"]
