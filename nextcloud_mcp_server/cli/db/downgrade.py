"""``db downgrade``: go back one or more revisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.options import (
    DatabaseOption,
    database_options,
    revision_option,
    while_running_option,
    yes_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import for_shell
from nextcloud_mcp_server.migrate.change import undone
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.summary import downgrade_warning, downgraded_lines

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.change import Change


@click.command()
@database_options
@revision_option("Go back to this revision, to 'base', or by -N steps.  [default: -1]")
@while_running_option
@yes_option
def downgrade(
    output: Output, option: DatabaseOption, revision: str | None, *, yes: bool, while_running: bool
) -> int:
    """Go back one or more revisions (emergency use only).

    Lists what will be lost, asks for confirmation, and makes a backup first. Needs no
    encryption key; if one is set, it is verified first.
    """
    from nextcloud_mcp_server.cli.operation import operation, phases  # noqa: PLC0415
    from nextcloud_mcp_server.crypto.keyfile import key_verifier  # noqa: PLC0415
    from nextcloud_mcp_server.migrate import change as changes  # noqa: PLC0415
    from nextcloud_mcp_server.migrate.alembic_commands import listing  # noqa: PLC0415

    settings = option.settings(output)
    unlock = key_verifier(settings)
    with phases(output, "checking its pages"):
        report, target = changes.propose_downgrade(
            settings.database, revision, while_running=while_running, unlock=unlock
        )
    known = known_history()
    steps = undone(known, str(report.finding.recorded), target)
    lost = [revision for revision in listing(known)[::-1] if revision.id in steps]
    for line in downgrade_warning(report, target, lost, known.head):
        output.note(line)
    if not yes:
        path = for_shell(settings.database)
        output.confirm("Go back?", f"db downgrade --revision {target} -d {path} --yes")
    with operation(output, settings.database) as progress:
        change = changes.downgrade(
            settings.database,
            target,
            agreed_from=report.finding.recorded,
            while_running=while_running,
            unlock=unlock,
            lock_timeout=settings.lock_timeout,
            listener=progress,
        )
    output.result(change_facts(change), *downgraded_lines(change))
    return 0


def change_facts(change: Change) -> dict[str, Any]:
    """Return the result of ``db downgrade`` and ``db stamp`` for ``--json``."""
    return {
        "database": str(change.database),
        "before": change.before,
        "after": change.after,
        "steps": list(change.steps),
        "backup": None if change.backup is None else str(change.backup),
    }
