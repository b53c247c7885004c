"""``db downgrade``: go back one revision or more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.options import (
    Named,
    database_options,
    revision_option,
    while_running_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import TokenStorageError, printable
from nextcloud_mcp_server.migrate.change import undone
from nextcloud_mcp_server.migrate.inspect import Report, known_history
from nextcloud_mcp_server.migrate.summary import backup_line
from nextcloud_mcp_server.schema.history import BASE

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.change import Change
    from nextcloud_mcp_server.schema.revision import Revision


@click.command()
@database_options
@revision_option("Go back to this revision, to 'base', or by -N steps.  [default: -1]")
@while_running_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def downgrade(
    output: Output, named: Named, revision: str | None, *, yes: bool, while_running: bool
) -> int:
    """Go back one revision or more (emergency use only).

    Says what will be lost, asks, and makes a backup before it begins. The keys are proven,
    where there are any; none is needed.
    """
    from nextcloud_mcp_server.cli.console_log import plain_log  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.interrupts import interruptible  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.progress import shown, telling  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.crypto.keyfile import key_verifier as prover  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.migrate import change as changes  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.migrate.alembic_commands import listing  # noqa: PLC0415 - imports Alembic

    settings = named.settings(output)
    unlock = prover(settings)
    with telling(output) as say:
        say("checking its pages")
        report, target = changes.propose_downgrade(
            settings.database, revision, while_running=while_running, unlock=unlock
        )
    known = known_history()
    steps = undone(known, str(report.finding.recorded), target)
    lost = [revision for revision in listing(known)[::-1] if revision.id in steps]
    for line in warning_lines(report, target, lost, known.head):
        output.note(line)
    if not yes:
        _agree(output, settings.database, target)
    with interruptible(output, settings.database), plain_log(output), shown(output) as listener:
        change = changes.downgrade(
            settings.database,
            target,
            agreed_from=report.finding.recorded,
            while_running=while_running,
            unlock=unlock,
            lock_timeout=settings.lock_timeout,
            listener=listener,
        )
    output.result(change_facts(change), *downgraded_lines(change))
    return 0


def _agree(output: Output, database: Path, target: str) -> None:
    answer = output.answer("Go back? [y/N] ")
    if answer is not None and answer.lower() in {"y", "yes"}:
        return
    why = "There was nobody to ask" if answer is None else "The answer was not yes"
    raise TokenStorageError(
        f"{why}, so nothing was changed.",
        code="declined",
        remedy=f"To go back without being asked: {downgrade_command(database, target)}",
    )


def change_facts(change: Change) -> dict[str, Any]:
    """What ``db downgrade`` and ``db stamp`` did, for ``--json``."""
    return {
        "database": str(change.database),
        "before": change.before,
        "after": change.after,
        "steps": list(change.steps),
        "backup": _text(change.backup),
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def warning_lines(
    report: Report, target: str, undone: Sequence[Revision], head: str
) -> tuple[str, ...]:
    """What a downgrade undoes and loses, before it is agreed to."""
    path = printable(str(report.database))
    where = "the beginning, without any table" if target == BASE else f"revision {target}"
    return (
        f"{path} is at revision {report.finding.recorded} and goes back to {where}. This undoes:",
        *(f"  {r.id}  {r.title}. Loses: {r.loses or 'it does not say what'}" for r in undone),
        f"Rows are backed up first. The next start of this version upgrades it to {head} again.",
    )


def downgraded_lines(change: Change) -> tuple[str, ...]:
    """What a downgrade did."""
    path = printable(str(change.database))
    after = change.after or f"{BASE}: it holds no table of this program"
    return (f"downgraded {path} from {change.before} to {after}", *backup_line(change.backup))


def downgrade_command(database: Path, target: str) -> str:
    """The command that downgrades without asking."""
    from shlex import quote  # noqa: PLC0415 - for the words of a refusal only

    path = quote(printable(str(database)))
    return f"nextcloud-mcp-server db downgrade --revision {target} -d {path} --yes"
