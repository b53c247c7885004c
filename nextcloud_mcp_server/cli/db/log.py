"""``db log``: the journal of migrations, as a table or as facts. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.cli.options import Named, database_options
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import TokenStorageError, printable
from nextcloud_mcp_server.migrate.inspect import examine

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.journal import Entry


_HEADINGS: Final = ("when (UTC)", "what", "from", "to", "seconds", "program", "host", "backup")

#: Where nobody can tell.
_UNKNOWN: Final = "?"


@click.command()
@database_options
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 2**31),
    metavar="N",
    help="Show the newest N only.  [default: all]",
)
def log(output: Output, named: Named, lines: int | None) -> int:
    """Show the journal of migrations, newest first.

    When, what, from and to which revision, in how many seconds, by which version of this
    program, on which host, and the backup made before. It is kept since revision 101, and
    is shown even of a database that a start would refuse. Of one that is not there it says
    so, and exits with 0 as 'db current' does: a start makes it.
    """
    from nextcloud_mcp_server.migrate.journal import read  # noqa: PLC0415 - with what it needs

    database = named.locate(output).database
    report = examine(database)
    try:
        entries = read(report.database, lines)
    except TokenStorageError as error:
        raise report.refusal or error from error
    if entries is None and report.refusal:
        raise report.refusal
    document = {
        "database": str(database),
        "exists": report.exists,
        "journal": entries is not None,
        "entries": [entry_facts(entry) for entry in entries or ()],
    }
    path = printable(str(database))
    if not entries:
        since = "" if entries is not None else "; it is kept since revision 101"
        none = f"has no journal of migrations yet{since}" if report.exists else "is not there yet"
        output.result(document, f"{path} {none}")
        return 0
    output.result(document, *log_lines(entries))
    return 0


def entry_facts(entry: Entry) -> dict[str, Any]:
    """One entry, for ``--json``."""
    return asdict(entry)


def log_lines(entries: Sequence[Entry]) -> list[str]:
    """The entries as a table, with what else is noted in a line below each."""
    rows = [_row(entry) for entry in entries]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    lines = [_aligned(_HEADINGS, widths)]
    for entry, row in zip(entries, rows, strict=True):
        lines.append(_aligned(row, widths))
        if entry.note:
            lines.append(f"    {printable(entry.note)}")
    return lines


def _row(entry: Entry) -> tuple[str, ...]:
    seconds = _UNKNOWN if entry.seconds is None else f"{entry.seconds:.2f}"
    words = (entry.action, entry.before or "-", entry.after or "-", seconds)
    more = (entry.program_version, entry.host, entry.backup or "-")
    return (_moment(entry.happened_at), *map(printable, (*words, *more)))


def _moment(seconds: int | None) -> str:
    if seconds is None:
        return _UNKNOWN
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
