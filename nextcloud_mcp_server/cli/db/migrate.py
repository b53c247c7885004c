"""``db migrate``: write a migration, or put one at the end of the line."""

from __future__ import annotations

import click

from nextcloud_mcp_server.cli.options import Named, database_options, not_empty
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import printable


@click.command()
@database_options
@click.argument("message", required=False, callback=not_empty)
@click.option(
    "--renumber",
    metavar="FILE",
    callback=not_empty,
    help="Give the migration in FILE the next id, where two people made the same one.",
)
def migrate(output: Output, named: Named, message: str | None, renumber: str | None) -> int:
    """Write an empty migration (in a checkout only).

    It gets the next revision id, and a file of rows for the walks of the tests. With
    --renumber it is one that is there already, which goes to the end of the line. No
    database is used, so -d and -u make no difference.
    """
    del named
    if (message is None) == (renumber is None):
        raise click.UsageError("Give a MESSAGE, or --renumber FILE.")
    if renumber is not None:
        return _renumber(output, renumber)
    from nextcloud_mcp_server.authoring.create import write  # noqa: PLC0415 - imports Alembic

    made = write(str(message))
    rows = [] if made.rows is None else [f"made {printable(str(made.rows))}"]
    output.result(
        {"file": str(made.script), "rows": None if made.rows is None else str(made.rows)},
        f"made {printable(str(made.script))}",
        *rows,
        "Write its upgrade() and downgrade(), then try both on a database that may be lost:",
        "  nextcloud-mcp-server db upgrade -d /tmp/test.db",
        "  nextcloud-mcp-server db downgrade -d /tmp/test.db",
        "Then see whether it may be merged:",
        "  nextcloud-mcp-server db lint --fix",
    )
    return 0


def _renumber(output: Output, given: str) -> int:
    from nextcloud_mcp_server.authoring.renumber import renumber  # noqa: PLC0415 - imports Alembic

    places = renumber(given)
    document = [
        {"from": str(place.script.path), "to": str(place.path), "id": place.id} for place in places
    ]
    lines = [
        f"{printable(place.script.path.name)} is {printable(place.path.name)} now"
        for place in places
    ]
    output.result(
        {"renumbered": document},
        *(lines or ["It is at the end of the line already: nothing to do"]),
        *(["Then: nextcloud-mcp-server db lint --fix"] if lines else []),
    )
    return 0
