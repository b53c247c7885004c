"""``db copy``: copy all rows into a new database, also of the other engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.options import (
    FileName,
    not_empty,
    without_database,
    yes_option,
)
from nextcloud_mcp_server.cli.output import Output, interrupted, table
from nextcloud_mcp_server.errors import TokenStorageError, counted, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nextcloud_mcp_server.maintenance.copy.plan import Left
    from nextcloud_mcp_server.maintenance.copy.run import Copied, Copy, Preview, Problems
    from nextcloud_mcp_server.settings import Settings


@click.command()
@without_database
@click.option(
    "--from",
    "source",
    type=FileName(),
    metavar="PLACE",
    required=True,
    callback=not_empty,
    help="Path or URL of the database to read; it is not changed.",
)
@click.option(
    "--to",
    "target",
    type=FileName(),
    metavar="PLACE",
    required=True,
    callback=not_empty,
    help="Path or URL of the database to fill: a new one, or one without rows.",
)
@click.option("--without-keys", is_flag=True, help="Do not decrypt the secrets to prove the keys.")
@click.option(
    "--while-running",
    is_flag=True,
    help="Proceed beside a running server; what it stores meanwhile is not copied.",
)
@yes_option
def copy(
    output: Output,
    source: str,
    target: str,
    *,
    without_keys: bool,
    while_running: bool,
    yes: bool,
) -> int:
    """Copy all rows into a new database, also of the other engine.

    A PLACE is the path of a file, or a URL of SQLite or PostgreSQL. Shows what is copied and
    what stays behind, and asks for confirmation.

    The source must be at head. Every value is checked by the type of its column, and every
    secret is decrypted; if one cannot be carried over, all such values are listed and nothing
    is copied. All rows are written in one transaction, and compared with the source before it
    is committed. After an interruption the target has no rows: run the command again.

    Stop the servers of the source first: what they store later is not copied. Whether one is
    running is known for a file only.
    """
    from nextcloud_mcp_server.cli.operation import operation, phases
    from nextcloud_mcp_server.maintenance.copy.run import Copy

    work = Copy(
        _settings(output, source),
        _settings(output, target),
        without_keys=without_keys,
        while_running=while_running,
    )
    document: dict[str, Any] = {"source": str(work.source), "target": str(work.target)}
    with phases(output, "counting the rows"):
        preview = work.preview()
    for line in _preview_lines(work, preview):
        output.note(line)
    if not yes:
        output.confirm("Copy?", f"{work.command} --yes")
    found: list[Problems] = []
    ended = interrupted("Either all rows were copied, or none.")
    try:
        with operation(output, interruption=ended) as progress:
            done = work.run(found.append, progress)
    except TokenStorageError as error:
        if not found:
            raise
        for line in _problem_lines(found[0]):
            output.note(line)
        output.error(error, {**document, **_problem_facts(found[0])})
        return error.exit_status
    output.result({**document, **_facts(done)}, *_lines(work, done))
    return 0


def _settings(output: Output, place: str) -> Settings:
    from nextcloud_mcp_server.cli.database import DatabaseOption

    return DatabaseOption(place).settings(output)


def _preview_lines(work: Copy, preview: Preview) -> list[str]:
    filled = {name: rows for name, rows in preview.rows.items() if rows}
    total = counted(sum(filled.values()), "row")
    lines = [f"{printable(str(work.source))} has {total}, for {printable(str(work.target))}:"]
    lines += table([("", name, str(rows)) for name, rows in filled.items()])
    lines += _left_lines(preview.left)
    if work.cannot_know_servers:
        lines.append(
            f"warning: whether a server is running on {printable(str(work.source))} is not known: "
            "what one stores from now on is not copied"
        )
    return lines


def _left_lines(left: Iterable[Left]) -> list[str]:
    return [
        f"stays behind: {one.what} {printable(one.name)}"
        + ("" if one.rows is None else f" ({counted(one.rows, 'row')})")
        for one in left
    ]


def _problem_lines(found: Problems) -> list[str]:
    shown = [f"{one.table}, {one.row}: {one.column} {one.reason}" for one in found.first]
    more = found.number - len(found.first)
    return [*map(printable, shown), *([f"and {more} more"] if more else [])]


def _problem_facts(found: Problems) -> dict[str, Any]:
    return {"problems": [one._asdict() for one in found.first], "problem_count": found.number}


def _facts(done: Copied) -> dict[str, Any]:
    return {
        "rows": dict(done.rows),
        "secrets_decrypted": done.secrets,
        "left_behind": [one._asdict() for one in done.left],
        "seconds": round(done.seconds, 6),
    }


def _lines(work: Copy, done: Copied) -> list[str]:
    total = counted(sum(done.rows.values()), "row")
    if done.secrets is None:
        secrets = "no secret was decrypted"
    else:
        secrets = f"{counted(done.secrets, 'secret')} decrypted"
    places = f"from {printable(str(work.source))} to {printable(str(work.target))}"
    lines = [
        f"copied {total} {places} in {done.seconds:.1f} s",
        f"compared: every table has the same rows; {secrets}",
    ]
    if key := work.key_file:
        lines.append(
            f"keys: the servers of the copy need the key in {printable(str(key))}, in "
            "TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE"
        )
    return lines
