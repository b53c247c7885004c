"""``nextcloud-mcp-server db``: look at the token database and change its revision.

What looks is imported here and is light; what changes is imported by the command that
needs it, because SQLAlchemy and Alembic take longer to import than a look takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from nextcloud_mcp_server.cli import looks, words
from nextcloud_mcp_server.cli.doctor import doctor
from nextcloud_mcp_server.cli.history import history, show
from nextcloud_mcp_server.cli.journal import log
from nextcloud_mcp_server.cli.lint import lint
from nextcloud_mcp_server.cli.migrate import migrate
from nextcloud_mcp_server.cli.options import (
    Named,
    database_options,
    not_empty,
    revision_option,
    while_running_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.cli.repair import repair
from nextcloud_mcp_server.cli.restore import backups, restore
from nextcloud_mcp_server.cli.upgrade import upgrade
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.report import known_history, undone
from nextcloud_mcp_server.words import backup_line

#: The commands by name; what ``db --help`` says of them is in :mod:`.summaries`.
db_commands: Final = click.Group("db")

db_commands.command()(database_options(looks.current))
db_commands.command()(database_options(looks.check))


@db_commands.command()
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
    from nextcloud_mcp_server import upkeep  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.interruption import interruptible  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.log import plain_log  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.progress import shown, telling  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.keyfile import prover  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.proposal import propose_downgrade  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.revisions import listing  # noqa: PLC0415 - imports Alembic

    settings = named.settings(output)
    unlock = prover(settings)
    with telling(output) as say:
        say("checking its pages")
        report, target = propose_downgrade(
            settings.database, revision, while_running=while_running, unlock=unlock
        )
    known = known_history()
    steps = undone(known, str(report.finding.recorded), target)
    lost = [revision for revision in listing(known)[::-1] if revision.id in steps]
    for line in words.warning_lines(report, target, lost, known.head):
        output.note(line)
    if not yes:
        _agree(output, settings.database, target)
    with interruptible(output, settings.database), plain_log(output), shown(output) as listener:
        change = upkeep.downgrade(
            settings.database,
            target,
            agreed_from=report.finding.recorded,
            while_running=while_running,
            unlock=unlock,
            lock_timeout=settings.lock_timeout,
            listener=listener,
        )
    output.result(words.change_facts(change), *words.downgraded_lines(change))
    return 0


def _agree(output: Output, database: Path, target: str) -> None:
    answer = output.answer("Go back? [y/N] ")
    if answer is not None and answer.lower() in {"y", "yes"}:
        return
    why = "There was nobody to ask" if answer is None else "The answer was not yes"
    raise TokenStorageError(
        f"{why}, so nothing was changed.",
        code="declined",
        remedy=f"To go back without being asked: {words.downgrade_command(database, target)}",
    )


@db_commands.command()
@database_options
@click.argument("revision", metavar="REV", callback=not_empty)
@while_running_option
def stamp(output: Output, named: Named, revision: str, *, while_running: bool) -> int:
    """Record a revision without running anything.

    REV is an id, 'head' or 'base'. Makes a backup first, and refuses where the tables deny
    REV. It is the way out of a version table with several rows. The keys are proven, where
    there are any; none is needed.
    """
    from nextcloud_mcp_server import upkeep  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.interruption import interruptible  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.log import plain_log  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.progress import shown  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.keyfile import prover  # noqa: PLC0415 - see above

    settings = named.settings(output)
    target = known_history().head if revision == "head" else revision
    with interruptible(output, settings.database), plain_log(output), shown(output) as listener:
        change = upkeep.stamp(
            settings.database,
            target,
            while_running=while_running,
            unlock=prover(settings),
            lock_timeout=settings.lock_timeout,
            listener=listener,
        )
    output.result(words.change_facts(change), *words.stamped_lines(change))
    return 0


@db_commands.command()
@database_options
@click.argument("path", required=False, callback=not_empty)
def backup(output: Output, named: Named, path: str | None) -> int:
    """Make a verified copy of the database, in use or not.

    Without PATH the copy lies beside the database, and is never deleted by the server.
    """
    from nextcloud_mcp_server import upkeep  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.log import plain_log  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.progress import shown  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.keyfile import fingerprints  # noqa: PLC0415 - see above

    settings = named.settings(output)
    target = None if path is None else Path(path)
    with plain_log(output), shown(output) as listener:
        made = upkeep.back_up(
            settings.database,
            target,
            keys=fingerprints(settings),
            lock_timeout=settings.lock_timeout,
            listener=listener,
        )
    output.result({"database": str(settings.database), "backup": str(made)}, *backup_line(made))
    return 0


db_commands.add_command(backups)
db_commands.add_command(doctor)
db_commands.add_command(history)
db_commands.add_command(lint)
db_commands.add_command(log)
db_commands.add_command(migrate)
db_commands.add_command(repair)
db_commands.add_command(restore)
db_commands.add_command(show)
db_commands.add_command(upgrade)
