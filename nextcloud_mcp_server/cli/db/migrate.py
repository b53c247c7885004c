"""``db migrate``: create a migration, or renumber one."""

from __future__ import annotations

import click

from nextcloud_mcp_server.cli.options import FileName, not_empty, without_database
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import printable


@click.command()
@without_database
@click.argument("message", required=False, callback=not_empty)
@click.option(
    "--renumber",
    type=FileName(),
    metavar="FILE",
    callback=not_empty,
    help="Give the migration in FILE the next id, if two migrations have the same one.",
)
def migrate(output: Output, message: str | None, renumber: str | None) -> None:
    """Create an empty migration (in a checkout only).

    Gives it the next revision id, and also creates test data for the migration tests. With
    --renumber moves an existing migration to the end of the history. Uses no database.
    """
    if (message is None) == (renumber is None):
        raise click.UsageError("Give a MESSAGE, or --renumber FILE.")
    if renumber is not None:
        _renumber(output, renumber)
        return
    from nextcloud_mcp_server.authoring.create import write

    made = write(str(message))
    rows = None if made.rows is None else str(made.rows)
    output.result(
        {"file": str(made.script), "rows": rows},
        f"created {printable(str(made.script))}",
        *([f"created {printable(rows)}"] if rows else []),
        "Write its upgrade() and downgrade(), then test both on a disposable database:",
        "  nextcloud-mcp-server db upgrade -d /tmp/test.db",
        "  nextcloud-mcp-server db downgrade -d /tmp/test.db",
        "Then check whether it may be merged:",
        "  nextcloud-mcp-server db lint --fix --strict",
    )


def _renumber(output: Output, given: str) -> None:
    from nextcloud_mcp_server.authoring.renumber import renumber

    places = renumber(given)
    document = [{"from": str(p.script.path), "to": str(p.path), "id": p.id} for p in places]
    lines = [f"renamed {printable(p.script.path.name)} to {printable(p.path.name)}" for p in places]
    last = (
        "Then: nextcloud-mcp-server db lint --fix --strict"
        if places
        else "It is at the end of the history already: nothing to do"
    )
    output.result({"renumbered": document}, *lines, last)
