"""``keys promote``: let an introduced key encrypt."""

from __future__ import annotations

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.keys.fingerprint import Fingerprint, facts
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output


@click.command()
@database_options
@click.argument("fingerprint", type=Fingerprint())
def promote(output: Output, option: DatabaseOption, *, fingerprint: str) -> None:
    """Let an introduced key encrypt from now on.

    Give it to every server first. The key that encrypted before still opens. Waits for running
    writes; servers notice at their next one, and read their key file again if they do not have
    the key.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.keys import promote as promotion

    settings = option.settings(output)
    with phases(output, "waiting for running writes"):
        done = promotion.promote(settings, fingerprint)
    what = "encrypts now" if done.changed else "encrypts already"
    output.result(
        facts(done, settings.database),
        f"key {done.fingerprint} {what}",
        f"A server that does not have key {done.fingerprint} from now on can read and write no "
        "secret until it gets it.",
        f"next: nextcloud-mcp-server keys rotate {connect(settings.database).option}",
    )
