"""``keys list``: show which key opens how many secrets of each table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output, table
from nextcloud_mcp_server.errors import counted, printable

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.keys.census import Census

#: The most secrets without a key that are listed on a terminal.
_LISTED: Final = 20


@click.command("list")
@database_options
def list_keys(output: Output, option: DatabaseOption) -> None:
    """Show which key opens how many secrets of each table.

    A key is named by its fingerprint: the first eight digits of the SHA-256 of its 32 bytes,
    which does not reveal the key. Lists the secrets that no key opens. No key and no secret is
    ever printed. Changes nothing.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.keys.census import count_secrets

    settings = option.settings(output)
    with phases(output) as report:
        census = count_secrets(settings, report)
    # The line of `db current`.
    lines = [] if census.exists else ["new (no file)"]
    if census.exists or census.keys:
        lines += table(list(_rows(census)))
    output.result(census_facts(census), *lines, *unopened_lines(census))


def census_facts(census: Census) -> dict[str, Any]:
    """Return a census for ``--json``."""
    return {
        "database": str(census.database),
        "exists": census.exists,
        "keys": [
            {"fingerprint": key, "newest": place == 0, "secrets": census.by_table(key)}
            for place, key in enumerate(census.keys)
        ],
        "unopened": [secret._asdict() for secret in census.unopened],
    }


def unopened_lines(census: Census) -> Iterator[str]:
    """Return lines about the secrets that no key opens; none if there is none."""
    if not census.unopened:
        return
    what = "no given key opens" if census.keys else "no key was given for"
    yield f"{what} {counted(len(census.unopened), 'secret')}:"
    for secret in census.unopened[:_LISTED]:
        yield f"  {secret.table}.{secret.column} of {printable(repr(secret.row))}"
    if (more := len(census.unopened) - _LISTED) > 0:
        yield f"  and {more} more (all of them with --json)"


def _rows(census: Census) -> Iterator[tuple[str, ...]]:
    yield "key", "use", "table", "secrets"
    for place, key in enumerate(census.keys):
        use = "opens" if place else "encrypts"
        for name, number in census.by_table(key).items() or [("-", 0)]:
            yield key, use, name, str(number)
