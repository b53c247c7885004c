"""``db downgrade``: go back one or more revisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import (
    RevisionCommand,
    database_options,
    revision_option,
    while_running_option,
    yes_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.migrate.summary import downgrade_warning, downgraded_lines

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.change import Change


@click.command(cls=RevisionCommand)
@database_options
@revision_option("Go back to this revision, to 'base', or by -N steps.  [default: -1]")
@while_running_option
@yes_option
def downgrade(
    output: Output, option: DatabaseOption, revision: str | None, *, yes: bool, while_running: bool
) -> None:
    """Go back one or more revisions (emergency use only).

    Lists what will be lost, asks for confirmation, and makes a backup first. Needs no
    encryption key; if one is set, it is verified first.
    """
    from nextcloud_mcp_server.cli.operation import operation, phases
    from nextcloud_mcp_server.crypto.keyfile import key_verifier
    from nextcloud_mcp_server.migrate import change as changes
    from nextcloud_mcp_server.migrate.alembic_commands import listing

    settings = option.settings(output)
    database, verify = connect(settings.database), key_verifier(settings)
    with phases(output, "checking its pages"):
        inspection, target = changes.preview_downgrade(
            database, revision, while_running=while_running, verify=verify
        )
    history = inspection.history
    steps = history.undone(str(inspection.recorded), target)
    lost = [revision for revision in listing(history)[::-1] if revision.id in steps]
    for line in downgrade_warning(inspection, target, lost, history.head):
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
            lock_timeout=settings.lock_timeout,
            progress=progress,
        )
    output.result(change_facts(change), *downgraded_lines(change))


def change_facts(change: Change) -> dict[str, Any]:
    """Return the result of ``db downgrade`` and ``db stamp`` for ``--json``."""
    return {
        "database": str(change.database),
        "before": change.before,
        "after": change.after,
        "steps": list(change.steps),
        "backup": None if change.backup is None else str(change.backup),
    }
