"""``keys list``: show the state of each key, and how many secrets need it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output, table
from nextcloud_mcp_server.errors import counted, printable

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.keys.census import Census, KnownKey

#: The most values that are not opened which are listed on a terminal.
_LISTED: Final = 20


@click.command("list")
@database_options
def list_keys(output: Output, option: DatabaseOption) -> None:
    """Show the state of each key, and how many secrets of each table need it.

    A key is named by its fingerprint: the first eight digits of the SHA-256 of its 32 bytes,
    which does not reveal the key. Counts the values in plain text, and lists the secrets that
    no key opens. No key and no secret is ever printed. Changes nothing.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.keys.census import count_secrets

    settings = option.settings(output)
    with phases(output) as report:
        census = count_secrets(settings, report)
    # The line of `db current`: a server has no file.
    new = "new (no file)" if isinstance(census.database, Path) else "new (it has no tables)"
    lines = [] if census.exists else [new]
    if census.exists or census.keys:
        lines += table(list(_rows(census)))
    output.result(census_facts(census), *lines, *_plain_lines(census), *unopened_lines(census))


def census_facts(census: Census) -> dict[str, Any]:
    """Return a census for ``--json``."""
    return {
        "database": str(census.database),
        "exists": census.exists,
        "keys": [
            {
                "fingerprint": key.fingerprint,
                "kind": key.kind,
                "state": key.state,
                "given": key.given,
                "created_at": key.created_at,
                "secrets": census.by_table(key),
            }
            for key in census.keys
        ],
        "plain": [
            {"table": name, "column": column, "values": number}
            for (name, column), number in census.plain.items()
        ],
        "unopened": [value._asdict() for value in census.unopened],
    }


def unopened_lines(census: Census) -> Iterator[str]:
    """Return lines about the values that are not opened; none if there is none."""
    reasons: dict[str, list[str]] = {}
    for value in census.unopened:
        line = f"  {value.table}.{value.column} of {printable(repr(value.row))}"
        reasons.setdefault(value.reason, []).append(line)
    for reason, rows in reasons.items():
        yield f"{counted(len(rows), 'value')}: {reason}:"
        yield from rows[:_LISTED]
        if (more := len(rows) - _LISTED) > 0:
            yield f"  and {more} more (all of them with --json)"


def _plain_lines(census: Census) -> Iterator[str]:
    if census.plain:
        where = ", ".join(f"{n} in {name}.{column}" for (name, column), n in census.plain.items())
        yield f"in plain text, until keys rotate: {where}"


def _rows(census: Census) -> Iterator[tuple[str, ...]]:
    yield "key", "format", "state", "given", "created", "table", "secrets"
    for key in census.keys:
        for name, number in census.by_table(key).items() or [("-", 0)]:
            yield *_columns(key), name, str(number)


def _columns(key: KnownKey) -> tuple[str, ...]:
    created = "-" if key.created_at is None else _date(key.created_at)
    given = "yes" if key.given else "no"
    return key.fingerprint, key.kind, key.state or "not registered", given, created


def _date(seconds: int) -> str:
    # A number that somebody typed into the table may be no date.
    try:
        return datetime.fromtimestamp(seconds, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError, TypeError):
        return "?"
