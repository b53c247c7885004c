"""``db repair``: fix what ``db doctor`` marks as fixable, after confirmation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.db.doctor import CHECKING, finding_facts, finding_line
from nextcloud_mcp_server.cli.options import database_options, yes_option
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import for_shell, printable
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.migrate.summary import backup_lines

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.doctor.run import Diagnosis
    from nextcloud_mcp_server.maintenance.repair import Repaired


@click.command()
@database_options
@yes_option
def repair(output: Output, option: DatabaseOption, *, yes: bool) -> int:
    """Fix the problems that `db doctor` marks as fixable.

    Lists them, asks for confirmation, and makes a backup before it changes the tables. Needs
    no encryption key; if one is set, it is verified first. Exits 1 if an error remains.
    """
    from nextcloud_mcp_server.cli.operation import operation, phases
    from nextcloud_mcp_server.maintenance import repair as repairs
    from nextcloud_mcp_server.maintenance.doctor.run import diagnose

    settings = option.settings(output, files_only="db repair")
    with phases(output, CHECKING):
        preview = repairs.preview_repair(settings)
        before = diagnose(settings, full=True)
    if not before.fixable:
        return _report(output, repairs.Repaired(settings.file, ()), before)
    for finding in before.fixable:
        output.note(finding_line(finding, fix=False))
    if line := repairs.upgrade_line(preview):
        output.note(line)
    if not yes:
        # Modes are changed without a backup.
        changes = preview is not None and (preview.restructures or preview.indexes)
        output.confirm(
            f"Fix these problems?{' A backup is made first.' if changes else ''}",
            f"db repair -d {for_shell(settings.file)} --yes",
        )
    with operation(output, settings.file) as progress:
        done = repairs.repair(settings, None if yes else preview, progress=progress)
    with phases(output, CHECKING):
        after = diagnose(settings)
    return _report(output, done, after)


def _report(output: Output, done: Repaired, after: Diagnosis) -> int:
    # What could not be checked may need a repair, too.
    left = [f for f in after.findings if f.level in {Level.ERROR, Level.UNKNOWN}]
    document = {
        "database": str(done.database),
        "mended": list(done.done),
        "backup": None if done.backup is None else str(done.backup),
        "kept": None if done.kept is None else str(done.kept),
        "worst": after.worst.value,
        "findings": [finding_facts(f) for f in after.findings if f.level is not Level.OK],
    }
    kept = () if done.kept is None else (f"kept: {printable(str(done.kept))}, the original file",)
    output.result(
        document,
        *(map(printable, done.done) if done.done else ("nothing to repair",)),
        *backup_lines(done.backup),
        *kept,
        *map(finding_line, left),
    )
    return 1 if after.worst is Level.ERROR else 0
