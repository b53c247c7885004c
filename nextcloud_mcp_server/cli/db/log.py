"""``db log``: show the journal of migrations; change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import WholeNumber, database_options
from nextcloud_mcp_server.cli.output import Output, table
from nextcloud_mcp_server.errors import TokenStorageError, moment, printable
from nextcloud_mcp_server.migrate.inspect import inspect

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.journal import Entry


_HEADINGS: Final = ("when", "what", "from", "to", "seconds", "program", "host", "backup")


@click.command()
@database_options
@click.option(
    "-n",
    "--lines",
    type=WholeNumber(1, 2**31),
    metavar="N",
    help="Show only the newest N.  [default: all]",
)
def log(output: Output, option: DatabaseOption, lines: int | None) -> None:
    """Show the journal of migrations, newest first.

    For each change: when, what, from and to which revision, how long it took, the version
    of this program, the host, and the backup made before. The journal exists since revision
    101. It is shown even if a start would refuse the database. A missing database is no
    error: a start creates it.
    """
    from nextcloud_mcp_server.migrate.journal import read

    database = option.database(output)
    inspection = inspect(database)
    try:
        entries = read(database, lines)
    except TokenStorageError as error:
        raise inspection.refusal or error from error
    if entries is None and inspection.refusal:
        raise inspection.refusal
    document = {
        "database": str(database),
        "exists": inspection.exists,
        "journal": entries is not None,
        "entries": [asdict(entry) for entry in entries or ()],
    }
    if entries:
        output.result(document, *log_lines(entries, narrow=output.columns() is not None))
        return
    since = "" if entries is not None else "; it exists since revision 101"
    none = f"has no journal of migrations yet{since}" if inspection.exists else "does not exist yet"
    output.result(document, f"{printable(str(database))} {none}")


def log_lines(entries: Sequence[Entry], *, narrow: bool = False) -> list[str]:
    """Return the entries as a table, each with its note on a line below.

    If ``narrow``, the name of the backup is on a line of its own, too.
    """
    end = -1 if narrow else None
    head, *rows = table([row[:end] for row in (_HEADINGS, *map(_row, entries))])
    lines = [head]
    for entry, row in zip(entries, rows, strict=True):
        lines.append(row)
        if narrow and entry.backup:
            lines.append(f"    backup: {printable(entry.backup)}")
        if entry.note:
            lines.append(f"    {printable(entry.note)}")
    return lines


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        shown_time(entry.happened_at),
        entry.action,
        entry.before or "-",
        entry.after or "-",
        "?" if entry.seconds is None else f"{entry.seconds:.2f}",
        entry.program_version,
        entry.host,
        entry.backup or "-",
    )


def shown_time(seconds: int | None) -> str:
    """Return a time of a row, also if somebody has written it by hand."""
    if seconds is None:
        return "?"
    try:
        return moment(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, ValueError, OSError, TypeError):
        return str(seconds)
