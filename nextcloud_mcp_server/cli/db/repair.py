"""``db repair``: mend what ``db doctor`` calls mendable, after showing it and asking."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.db.doctor import EXAMINING, finding_facts, finding_line
from nextcloud_mcp_server.cli.options import Named, database_options
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import TokenStorageError, printable
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.migrate.summary import backup_line

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.doctor.run import Diagnosis
    from nextcloud_mcp_server.maintenance.repair import Repaired


@click.command()
@database_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def repair(output: Output, named: Named, *, yes: bool) -> int:
    """Mend what 'db doctor' calls mendable.

    Says what that is, asks, and makes a backup before it begins. The keys are proven, where
    there are any; none is needed. Exits with 1 where an error remains.
    """
    from nextcloud_mcp_server.cli.console_log import plain_log  # noqa: PLC0415 - takes longer than a look
    from nextcloud_mcp_server.cli.interrupts import interruptible  # noqa: PLC0415 - see below
    from nextcloud_mcp_server.cli.progress import shown, telling  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.maintenance.doctor.run import diagnose  # noqa: PLC0415 - loads keys
    from nextcloud_mcp_server.maintenance.repair import Repaired, preview_repair, upgrade_line  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.maintenance.repair import repair as mend  # noqa: PLC0415 - see above

    settings = named.settings(output)
    with telling(output) as say:
        say(EXAMINING)
        needed = preview_repair(settings)
        before = diagnose(settings, full=True)
    if not before.fixable:
        return _say(output, Repaired(before.database, ()), before)
    for finding in before.fixable:
        output.note(finding_line(finding, mend=False))
    if line := upgrade_line(needed):
        output.note(line)
    if not yes:
        _agree(output, before.database)
    with interruptible(output, before.database), plain_log(output), shown(output) as listener:
        done = mend(settings, None if yes else needed, progress=listener)
    with telling(output) as say:
        say(EXAMINING)
        after = diagnose(settings)
    return _say(output, done, after)


def _agree(output: Output, database: Path) -> None:
    answer = output.answer("Mend this? A backup is made first. [y/N] ")
    if answer is not None and answer.lower() in {"y", "yes"}:
        return
    why = "There was nobody to ask" if answer is None else "The answer was not yes"
    path = shlex.quote(printable(str(database)))
    raise TokenStorageError(
        f"{why}, so nothing was changed.",
        code="declined",
        remedy=f"To mend it without being asked: nextcloud-mcp-server db repair -d {path} --yes",
    )


def _say(output: Output, done: Repaired, after: Diagnosis) -> int:
    # What could not be looked at may need mending, too.
    left = [f for f in after.findings if f.level in {Level.ERROR, Level.UNKNOWN}]
    kept = () if done.kept is None else (f"kept: {printable(str(done.kept))}, the file as it was",)
    output.result(
        _facts(done, after),
        *(map(printable, done.done) if done.done else ("nothing to mend",)),
        *backup_line(done.backup),
        *kept,
        *map(finding_line, left),
    )
    return 1 if after.worst is Level.ERROR else 0


def _facts(done: Repaired, after: Diagnosis) -> dict[str, Any]:
    return {
        "database": str(done.database),
        "mended": list(done.done),
        "backup": None if done.backup is None else str(done.backup),
        "kept": None if done.kept is None else str(done.kept),
        "worst": after.worst.value,
        "findings": [finding_facts(f) for f in after.findings if f.level is not Level.OK],
    }
