"""``db prune``: delete expired rows and old audit entries, after confirmation."""

from __future__ import annotations

from datetime import timedelta

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import age_option, database_options, hours, yes_option
from nextcloud_mcp_server.cli.output import Output, interrupted, table
from nextcloud_mcp_server.errors import counted, printable


@click.command()
@database_options
@click.option("--dry-run", is_flag=True, help="Only show what it would delete.")
@age_option(
    "--audit-older-than",
    help="Also delete older audit entries: 12h, 30d or 4w.  [default: $AUDIT_RETENTION_DAYS, "
    "else none]",
)
@yes_option
def prune(
    output: Output,
    option: DatabaseOption,
    *,
    dry_run: bool,
    audit_older_than: timedelta | None,
    yes: bool,
) -> None:
    """Delete expired login flows and sessions, and old audit entries.

    Shows how many rows of each table it deletes, and asks for confirmation. Never deletes a
    refresh token, expired or not. Needs no key, and works beside a running server: it deletes
    in batches, and each row gets an entry in the audit log, except entries of the log itself.
    """
    from nextcloud_mcp_server.auth.prune import count_expired, delete_expired
    from nextcloud_mcp_server.cli.operation import operation, phases
    from nextcloud_mcp_server.progress import reporting

    settings = option.settings(output)
    database = connect(settings.database)
    with phases(output, "counting the expired rows"):
        expired = count_expired(settings, audit_age=audit_older_than)
    rows = [("table", "expired"), *((name, str(number)) for name, number in expired.items())]
    document = {"database": str(database), "expired": expired}
    place = printable(str(database))
    if dry_run:
        output.result(document, *table(rows))
        return
    deleted = dict.fromkeys(expired, 0)
    if number := sum(expired.values()):
        for line in table(rows):
            output.note(line)
        if not yes:
            age = (
                "" if audit_older_than is None else f" --audit-older-than {hours(audit_older_than)}"
            )
            command = f"db prune{age} {database.option} --yes"
            output.confirm(f"Delete {counted(number, 'row')}?", command)
        ended = interrupted("What was deleted stays so, and the rest is unchanged.")
        with operation(output, interruption=ended) as progress, reporting(progress) as report:
            deleted = delete_expired(settings, report=report, audit_age=audit_older_than)
    where = ", ".join(f"{number} of {name}" for name, number in deleted.items() if number)
    total = counted(sum(deleted.values()), "expired row")
    output.result(
        {**document, "deleted": deleted}, f"deleted {total} from {place}{where and f' ({where})'}"
    )
