"""``db backup``: make a verified copy of the database."""

from __future__ import annotations

from pathlib import Path

import click

from nextcloud_mcp_server.cli.options import (
    Named,
    database_options,
    not_empty,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.migrate.summary import backup_line


@click.command()
@database_options
@click.argument("path", required=False, callback=not_empty)
def backup(output: Output, named: Named, path: str | None) -> int:
    """Make a verified copy of the database, in use or not.

    Without PATH the copy lies beside the database, and is never deleted by the server.
    """
    from nextcloud_mcp_server.cli.console_log import plain_log  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.progress import shown  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.crypto.keyfile import fingerprints  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.maintenance.backup import back_up  # noqa: PLC0415 - see above

    settings = named.settings(output)
    target = None if path is None else Path(path)
    with plain_log(output), shown(output) as listener:
        made = back_up(
            settings.database,
            target,
            keys=fingerprints(settings),
            lock_timeout=settings.lock_timeout,
            progress=listener,
        )
    output.result({"database": str(settings.database), "backup": str(made)}, *backup_line(made))
    return 0
