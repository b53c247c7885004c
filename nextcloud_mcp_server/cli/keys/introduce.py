"""``keys introduce``: register a given key."""

from __future__ import annotations

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.keys.fingerprint import Fingerprint, facts
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output


@click.command()
@database_options
@click.argument("fingerprint", type=Fingerprint(), required=False)
@click.option(
    "--fernet",
    is_flag=True,
    help="Register it for values of released versions, as after restoring some from a backup. "
    "Costs protection: a text that was put back from an old backup is accepted again.",
)
def introduce(
    output: Output, option: DatabaseOption, *, fingerprint: str | None, fernet: bool
) -> None:
    """Register a given key, so that it can be promoted.

    Without FINGERPRINT: the newest given key that is not registered. From then on it opens, and
    does not encrypt yet. Where no key is registered, the newest given one that opens a secret
    becomes primary first. Give the key to every server before you promote it.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.keys import promote as promotion

    settings = option.settings(output)
    with phases(output, "registering the key"):
        done = promotion.introduce(settings, fingerprint, fernet=fernet)
    key, place = done.fingerprint, connect(settings.database).option
    if fernet:
        lines = [
            f"key {key} opens values of released versions: old texts are accepted again",
            f"next: nextcloud-mcp-server keys rotate {place}",
            f"then: nextcloud-mcp-server keys retire {key} --fernet {place}",
        ]
    elif done.state == "introduced" or (done.changed and done.state == "former"):
        lines = [
            f"key {key} is introduced: it opens, and does not encrypt yet",
            (
                "before you promote it, every server must have it: restart those that have "
                "their keys in a variable"
            ),
            f"then: nextcloud-mcp-server keys promote {key} {place}",
        ]
    elif done.changed:
        lines = [f"key {key} is the first one that is registered: it encrypts"]
    else:
        lines = [f"key {key} is registered already: {done.state}"]
    output.result(facts(done, settings.database), *lines)
