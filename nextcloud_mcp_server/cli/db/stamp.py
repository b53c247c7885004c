"""``db stamp``: record a revision without running a migration."""

from __future__ import annotations

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.db.downgrade import change_facts
from nextcloud_mcp_server.cli.options import (
    complete_revisions,
    database_options,
    not_empty,
    while_running_option,
    yes_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.summary import UNKNOWN_SERVERS, stamp_warning, stamped_lines


@click.command()
@database_options
@click.argument(
    "revision", metavar="REV", callback=not_empty, shell_complete=complete_revisions("head", "base")
)
@while_running_option
@yes_option
def stamp(
    output: Output, option: DatabaseOption, revision: str, *, while_running: bool, yes: bool
) -> None:
    """Record a revision without running a migration.

    REV is an id, 'head' or 'base'. Makes a backup first, and fails if the schema lacks a part
    of REV. Asks for confirmation if the tables are of another revision. Use it if the version
    table holds several rows. Needs no encryption key; if one is set, it is verified first.
    """
    from nextcloud_mcp_server.cli.operation import operation
    from nextcloud_mcp_server.crypto.verification import KeyVerifier
    from nextcloud_mcp_server.migrate import change as changes

    settings = option.settings(output)
    database = connect(settings.database)
    revision = known_history().head if revision == "head" else revision
    if database.directory is None:
        output.note(UNKNOWN_SERVERS)
    inspection, tables = changes.preview_stamp(database, revision, while_running=while_running)
    if tables is not None:
        output.note(stamp_warning(inspection, revision, tables))
        if not yes:
            output.confirm("Record it?", f"db stamp {revision} {database.option} --yes")
    with operation(output, settings.database) as progress:
        change = changes.stamp(
            database,
            revision,
            while_running=while_running,
            verify=KeyVerifier(settings),
            lock_timeout=settings.lock_timeout,
            progress=progress,
        )
    output.result(change_facts(change), *stamped_lines(change))
