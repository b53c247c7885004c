"""``db doctor``: what ails the database, worst first, with the command that mends it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.cli.options import Named, database_options
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import counted, printable
from nextcloud_mcp_server.maintenance.doctor.finding import WORST_FIRST, Finding, Level

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.doctor.run import Diagnosis


#: What takes long where a database is large.
EXAMINING: Final = "examining it"

#: The exit status where no error was found, and not everything could be looked at.
_NOT_ALL_SEEN: Final = 3

#: Levels that are no things to be counted: "2 ok".
_ADJECTIVES: Final = frozenset({Level.OK, Level.UNKNOWN})


@click.command()
@database_options
@click.option("--full", is_flag=True, help="Check every index entry and every backup as well.")
def doctor(output: Output, named: Named, *, full: bool) -> int:
    """Say what ails the database, worst first.

    One line a check, with the command that mends it. Changes nothing. Exits with 1 where
    there is an error, with 3 where there is none but something could not be looked at, and
    with 0 where there are only notes and warnings.
    """
    from nextcloud_mcp_server.cli.progress import telling  # noqa: PLC0415 - for this alone
    from nextcloud_mcp_server.maintenance.doctor.run import diagnose  # noqa: PLC0415 - loads keys

    settings = named.settings(output)
    with telling(output) as say:
        say(EXAMINING)
        found = diagnose(settings, full=full)
    output.result(diagnosis_facts(found), *diagnosis_lines(found))
    if found.worst is Level.ERROR:
        return 1
    return _NOT_ALL_SEEN if found.unknown else 0


def finding_line(finding: Finding, *, mend: bool = True) -> str:
    """One finding, on one line, with the command that mends it."""
    command = f"; mend it: {finding.command}" if mend and finding.command else ""
    return printable(f"{finding.level:<7}  {finding.check}: {finding.message}{command}")


def diagnosis_lines(found: Diagnosis) -> list[str]:
    """Every finding, and how many there are of each level."""
    numbers = Counter(finding.level for finding in found.findings)
    parts = ", ".join(
        f"{numbers[level]} {level}" if level in _ADJECTIVES else counted(numbers[level], level)
        for level in WORST_FIRST
        if numbers[level]
    )
    mends = f"; db repair mends {len(found.fixable)}" if found.fixable else ""
    return [*map(finding_line, found.findings), f"{parts}{mends}"]


def diagnosis_facts(found: Diagnosis) -> dict[str, Any]:
    """What ``db doctor`` says, for ``--json``."""
    return {
        "database": str(found.database),
        "worst": found.worst.value,
        "findings": [finding_facts(finding) for finding in found.findings],
    }


def finding_facts(finding: Finding) -> dict[str, Any]:
    """One finding, for ``--json``."""
    return {
        "check": finding.check,
        "level": finding.level.value,
        "message": finding.message,
        "mend": finding.command,
        "mendable": finding.fixable,
    }
