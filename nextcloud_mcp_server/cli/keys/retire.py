"""``keys retire``: retire a key that nothing needs."""

from __future__ import annotations

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.keys.compaction import compaction_lines
from nextcloud_mcp_server.cli.keys.fingerprint import Fingerprint, facts
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output


@click.command()
@database_options
@click.argument("fingerprint", type=Fingerprint())
@click.option("--fernet", is_flag=True, help="Retire it for values of released versions.")
def retire(output: Output, option: DatabaseOption, *, fingerprint: str, fernet: bool) -> None:
    """Retire a key that no secret needs any more.

    Fails if a stored value needs it (`key-needed`). The key need not be given, but the primary key
    must. After an upgrade, the primary key is also registered for the values of released versions
    (fernet): then this retires it for those. Once the last such key is retired, their values are
    not accepted any more, also in a row that was put back from a backup. In the end a
    file is rewritten, as by `keys rotate`.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.keys import retire as retirement
    from nextcloud_mcp_server.maintenance.keys.compaction import compact

    settings = option.settings(output)
    with phases(output, "looking for values that need the key") as report:
        done = retirement.retire(settings, fingerprint, fernet=fernet)
        left = compact(settings, report)
    what = "is retired" if done.changed else "was retired already"
    if done.kind == "fernet":
        what = f"{what} for values of released versions (fernet)"
    lines = [f"key {done.fingerprint} {what}"]
    if done.kind != "fernet":
        lines.append(
            "keep it elsewhere: backups from before and older entries of the audit log need it"
        )
    lines += compaction_lines(left, connect(settings.database).option)
    output.result({**facts(done, settings.database), "not_compacted": left or None}, *lines)
