"""``db stamp``: record a revision without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nextcloud_mcp_server.cli.db.downgrade import change_facts
from nextcloud_mcp_server.cli.options import (
    Named,
    database_options,
    not_empty,
    while_running_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import printable
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.summary import backup_line

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.change import Change


def stamped_lines(change: Change) -> tuple[str, ...]:
    """What a stamp did."""
    path, before = printable(str(change.database)), change.before or "none"
    what = f"stamped {path} with {change.after}" if change.after else f"unstamped {path}"
    return (f"{what} (recorded before: {before})", *backup_line(change.backup))


@click.command()
@database_options
@click.argument("revision", metavar="REV", callback=not_empty)
@while_running_option
def stamp(output: Output, named: Named, revision: str, *, while_running: bool) -> int:
    """Record a revision without running anything.

    REV is an id, 'head' or 'base'. Makes a backup first, and refuses where the tables deny
    REV. It is the way out of a version table with several rows. The keys are proven, where
    there are any; none is needed.
    """
    from nextcloud_mcp_server.cli.console_log import plain_log  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.interrupts import interruptible  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.progress import shown  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.crypto.keyfile import key_verifier as prover  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.migrate import change as changes  # noqa: PLC0415 - see above

    settings = named.settings(output)
    target = known_history().head if revision == "head" else revision
    with interruptible(output, settings.database), plain_log(output), shown(output) as listener:
        change = changes.stamp(
            settings.database,
            target,
            while_running=while_running,
            unlock=prover(settings),
            lock_timeout=settings.lock_timeout,
            listener=listener,
        )
    output.result(change_facts(change), *stamped_lines(change))
    return 0
