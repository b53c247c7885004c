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
@click.option(
    "--recover",
    is_flag=True,
    help="Do it although the key that encrypted until now is lost, or the table keys was changed "
    "without it (`keys-changed`). Values that older versions have stored are not accepted any "
    "more.",
)
def promote(output: Output, option: DatabaseOption, *, fingerprint: str, recover: bool) -> None:
    """Let an introduced key encrypt from now on.

    Give it to every server first. The key that encrypted before still opens. Waits for running
    writes; servers notice at their next one, and read their key file again if they do not have
    the key.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.keys import promote as promotion

    settings = option.settings(output)
    with phases(output, "waiting for running writes"):
        change = promotion.recover if recover else promotion.promote
        done = change(settings, fingerprint)
    key, place = done.fingerprint, connect(settings.database).option
    lines = [f"key {key} encrypts {'now' if done.changed else 'already'}"]
    if done.changed:
        lines.append(
            f"a server without key {key} can store no secret, and cannot read what it encrypts"
        )
    if recover:
        lines += [
            "every key of keys list is signed again, also one not given: retire what is not yours",
            (
                "values of older versions are not accepted any more; if there are any: "
                f"nextcloud-mcp-server keys introduce FINGERPRINT --fernet {place}"
            ),
        ]
    lines.append(f"next: nextcloud-mcp-server keys rotate {place}")
    output.result(facts(done, settings.database), *lines)
