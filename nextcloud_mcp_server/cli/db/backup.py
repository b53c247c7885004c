"""``db backup``: make a verified copy of the database."""

from __future__ import annotations

from pathlib import Path

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import database_options, not_empty
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.migrate.summary import backup_lines


@click.command()
@database_options
@click.argument("path", required=False, callback=not_empty)
def backup(output: Output, option: DatabaseOption, path: str | None) -> None:
    """Make a verified copy of the database, even while it is in use.

    Without PATH the copy is created beside the database. The server never deletes it.
    """
    from nextcloud_mcp_server.cli.operation import operation
    from nextcloud_mcp_server.crypto.keyfile import fingerprints
    from nextcloud_mcp_server.maintenance.backup import back_up

    settings = option.settings(output, files_only="db backup")
    with operation(output) as progress:
        made = back_up(
            settings.file,
            None if path is None else Path(path),
            keys=fingerprints(settings),
            lock_timeout=settings.lock_timeout,
            progress=progress,
        )
    output.result({"database": str(settings.database), "backup": str(made)}, *backup_lines(made))
