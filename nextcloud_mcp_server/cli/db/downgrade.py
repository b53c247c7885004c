"""``db downgrade``: go back one or more revisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.db.upgrade import print_script, quiet_database
from nextcloud_mcp_server.cli.options import (
    RevisionCommand,
    database_options,
    revision_option,
    while_running_option,
    yes_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import counted
from nextcloud_mcp_server.migrate.summary import downgrade_warning, downgraded_lines
from nextcloud_mcp_server.schema.history import BASE

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.change import Change
    from nextcloud_mcp_server.migrate.inspect import Inspection
    from nextcloud_mcp_server.schema.revision import Revision


@click.command(cls=RevisionCommand)
@database_options
@revision_option("Go back to this revision, to 'base', or by -N steps.  [default: -1]", "base")
@click.option("--dry-run", is_flag=True, help="Run it on a private copy; change nothing.")
@click.option("--sql", "as_sql", is_flag=True, help="Print its SQL statements; change nothing.")
@while_running_option
@yes_option
def downgrade(
    output: Output,
    option: DatabaseOption,
    revision: str | None,
    *,
    dry_run: bool,
    as_sql: bool,
    yes: bool,
    while_running: bool,
) -> None:
    """Go back one or more revisions (emergency use only).

    Lists what will be lost, asks for confirmation, and makes a backup first. Needs the
    encryption keys to go below 103, unless no secret was stored since the upgrade to it.

    With --dry-run everything is done to a copy beside the database, which is deleted
    afterwards; prints what is undone and which rows are lost. With --sql prints the
    statements; fails if the database has to be repaired first. Both work beside a server.
    """
    if dry_run and as_sql:
        raise click.UsageError("--dry-run and --sql exclude each other: give only one.")
    if as_sql:
        from nextcloud_mcp_server.migrate.script import script_downgrade

        print_script(output, script_downgrade(quiet_database(output, option), revision))
        return
    if dry_run:
        _rehearse(output, option, revision)
        return
    from nextcloud_mcp_server.cli.operation import operation, phases
    from nextcloud_mcp_server.crypto.verification import KeyVerifier
    from nextcloud_mcp_server.migrate import change as changes

    settings = option.settings(output)
    database, verify = connect(settings.database), KeyVerifier(settings)
    with phases(output, "checking its pages"):
        inspection, target, expected = changes.preview_downgrade(
            database,
            revision,
            while_running=while_running,
            verify=verify,
            keyring=verify.keyring,
        )
    undone = _undone(inspection, target)
    for line in downgrade_warning(inspection, target, undone, expected):
        output.note(line)
    if not yes:
        output.confirm("Go back?", f"db downgrade --revision {target} {database.option} --yes")
    with operation(output, settings.database) as progress:
        change = changes.downgrade(
            database,
            target,
            agreed_from=inspection.recorded,
            while_running=while_running,
            verify=verify,
            keyring=verify.keyring,
            lock_timeout=settings.lock_timeout,
            progress=progress,
        )
    document = {**change_facts(change), **decrypted_facts(change)}
    output.result(document, *downgraded_lines(change))


def _undone(inspection: Inspection, target: str) -> list[Revision]:
    from nextcloud_mcp_server.migrate.alembic_commands import listing

    steps = inspection.history.undone(str(inspection.recorded), target)
    return [revision for revision in listing(inspection.history)[::-1] if revision.id in steps]


def _rehearse(output: Output, option: DatabaseOption, revision: str | None) -> None:
    from nextcloud_mcp_server.cli.operation import operation
    from nextcloud_mcp_server.crypto.verification import KeyVerifier
    from nextcloud_mcp_server.maintenance.rehearse import rehearse_downgrade

    settings = option.settings(output, files_only="db downgrade --dry-run", revision=revision)
    verify = KeyVerifier(settings)
    with operation(output) as progress:
        done = rehearse_downgrade(
            settings.file, revision, verify=verify, keyring=verify.keyring, progress=progress
        )
    undone = _undone(done.inspection, done.target)
    warning = downgrade_warning(done.inspection, done.target, undone, done.change)
    document = {
        "database": str(done.database),
        "dry_run": True,
        "before": done.inspection.recorded,
        "after": None if done.target == BASE else done.target,
        "steps": list(done.steps),
        "loses": {revision.id: revision.loses for revision in undone},
        "rows_lost": dict(done.dropped),
        **decrypted_facts(done.change),
        "rows": done.rows,
        "seconds": round(done.seconds, 6),
    }
    lost = ", ".join(f"{name} ({counted(rows, 'row')})" for name, rows in done.dropped.items())
    output.result(
        document,
        *warning,
        f"tables with rows that are dropped: {lost or 'none'}",
        f"ran on a copy with {counted(done.rows, 'row')} in {done.seconds:.2f} s",
        "nothing was changed",
    )


def change_facts(change: Change) -> dict[str, Any]:
    """Return the result of ``db downgrade`` and ``db stamp`` for ``--json``."""
    return {
        "database": str(change.database),
        "before": change.before,
        "after": change.after,
        "steps": list(change.steps),
        "backup": None if change.backup is None else str(change.backup),
    }


def decrypted_facts(change: Change) -> dict[str, Any]:
    """Return what a downgrade deletes and encrypts for older versions, for ``--json``."""
    return {
        "rows_deleted": dict(change.deleted),
        "secrets_encrypted": dict(change.encrypted),
        "key": change.key,
    }
