"""``keys rotate``: encrypt every secret with the newest key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.keys.listing import census_facts, unopened_lines
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output, interrupted
from nextcloud_mcp_server.errors import counted

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.keys.rotate import Rotated


@click.command()
@database_options
def rotate(output: Output, option: DatabaseOption) -> int:
    """Encrypt every secret with the newest key.

    Servers can run meanwhile: restart each of them with the new key first, because one that
    has only the older keys cannot read what is rotated. Works in batches; after an
    interruption, run it again to do the rest. Secrets that no key opens are listed and kept as
    they are. Exits 1 if a server has stored secrets with an older key meanwhile.
    """
    from nextcloud_mcp_server.cli.operation import operation
    from nextcloud_mcp_server.maintenance.keys import rotate as rotation

    settings = option.settings(output)
    ended = interrupted("What was rotated stays so, and the rest is unchanged.")
    with operation(output, interruption=ended) as progress:
        done = rotation.rotate(settings, progress)
    document = {**census_facts(done.census), "rotated": dict(done.rotated)}
    output.result(document, *_lines(done))
    return 1 if done.census.older else 0


def _lines(done: Rotated) -> Iterator[str]:
    newest, *others = done.census.keys
    where = ", ".join(f"{number} in {table}" for table, number in done.rotated.items())
    total = counted(sum(done.rotated.values()), "secret")
    yield f"encrypted {total} with key {newest}{f' ({where})' if where else ''}"
    yield from unopened_lines(done.census)
    if older := done.census.older:
        left = ", ".join(f"{number} with key {key}" for key, number in older.items())
        yield f"still encrypted with an older key: {left}"
        yield (
            "restart every server with the newest key first in its settings, then run it again; "
            "if nothing changes, drop the trigger that ignores it (in sqlite3: .schema)"
        )
    elif others:
        yield f"no secret needs key {' or '.join(others)} any more; backups still do"
