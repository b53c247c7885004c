"""``db history`` and ``db show``: list the revisions, and print the SQL of one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import (
    complete_revisions,
    database_options,
    not_empty,
    without_database,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import TokenStorageError, printable
from nextcloud_mcp_server.migrate.inspect import inspect, known_history
from nextcloud_mcp_server.migrate.typed_revision import unknown_target
from nextcloud_mcp_server.schema.history import History, load_history
from nextcloud_mcp_server.schema.structure import Gaps, Structure, altered, gaps

if TYPE_CHECKING:
    from nextcloud_mcp_server.schema.revision import Revision


_SINGULAR: Final = {"tables": "table", "columns": "column", "indexes": "index"}

#: Wraps the changes below the title of a revision.
_WRAPPER: Final = textwrap.TextWrapper(
    width=100,
    initial_indent=" " * 17,
    subsequent_indent=" " * 19,
    break_long_words=False,
    break_on_hyphens=False,
)


@click.command()
@database_options
@click.option(
    "-v", "--verbose", is_flag=True, help="Print the complete docstring of each revision."
)
def history(output: Output, option: DatabaseOption, *, verbose: bool) -> int:
    """List the revisions and what each of them changes.

    Newest first; the current one is marked. The database need not exist.
    """
    from nextcloud_mcp_server.authoring.create import ORDER, require_one_line
    from nextcloud_mcp_server.migrate.alembic_commands import listing

    require_one_line(load_history().directory, rules=ORDER)
    known = known_history()
    revisions = listing(known)[::-1]
    recorded, problem, database = None, None, None
    try:
        database = option.database(output)
        inspection = inspect(database)
        recorded, problem = inspection.recorded, inspection.refusal
    except TokenStorageError as error:
        problem = error
    document = {
        "database": None if database is None else str(database),
        "current": recorded,
        "head": known.head,
        "revisions": [revision_facts(r, recorded, known) for r in revisions],
    }
    lines = history_lines(revisions, recorded, known, verbose=verbose)
    if problem is None:
        output.result(document, *lines)
        return 0
    # With a broken database the history is needed most.
    for line in lines:
        output.heading(line)
    output.error(problem, document)
    return problem.exit_status


def history_lines(
    revisions: Sequence[Revision], current: str | None, known: History, *, verbose: bool
) -> list[str]:
    """Return the revisions as a changelog, in the given order."""
    lines: list[str] = []
    for revision in revisions:
        marked = {"head": known.head, "current": current}
        marks = [mark for mark, wanted in marked.items() if wanted == revision.id]
        mark = f" ({', '.join(marks)})" if marks else ""
        lines.append(f"{revision.id}  {revision.date}  {revision.title}{mark}")
        for line in change_lines(revision, known):
            lines += _WRAPPER.wrap(line)
        if verbose:
            text = revision.doc.partition("\n")[2].strip()
            lines += [f"    {line}".rstrip() for line in text.splitlines()]
            lines += [f"    File: {printable(str(revision.path))}", ""]
    return lines


def change_lines(revision: Revision, known: History) -> list[str]:
    """Return what a revision changes, one kind per line."""
    added, dropped, changed = _differences(revision, known)
    return [
        *([f"adds {_names(added)}"] if added else []),
        *([f"drops {_names(dropped)}"] if dropped else []),
        *([f"alters {', '.join(changed)}"] if changed else []),
        *([f"rows: {revision.changes}"] if revision.changes else []),
    ]


def _names(difference: Gaps) -> str:
    parts = [
        f"{kind if len(names) > 1 else _SINGULAR[kind]} {', '.join(names)}"
        for kind, names in _facts(difference).items()
        if names
    ]
    return "; ".join(parts)


def _differences(revision: Revision, known: History) -> tuple[Gaps, Gaps, tuple[str, ...]]:
    after = known.structure(revision.id)
    before = Structure() if revision.parent is None else known.structure(revision.parent)
    return gaps(before, after), gaps(after, before), altered(before, after)


def revision_facts(revision: Revision, current: str | None, known: History) -> dict[str, Any]:
    """Return one revision for ``--json``."""
    added, dropped, changed = _differences(revision, known)
    return {
        "id": revision.id,
        "parent": revision.parent,
        "date": revision.date,
        "title": revision.title,
        "adds": _facts(added),
        "drops": _facts(dropped),
        "alters": list(changed),
        "rows": revision.changes,
        "loses": revision.loses,
        "file": str(revision.path),
        "head": revision.id == known.head,
        "current": revision.id == current,
    }


def _facts(difference: Gaps) -> Mapping[str, list[str]]:
    return {
        "tables": list(difference.tables),
        "columns": [f"{table}.{column}" for table, column in difference.columns],
        "indexes": list(difference.indexes),
    }


@click.command()
@without_database
@click.argument(
    "revision", metavar="REV", callback=not_empty, shell_complete=complete_revisions("head")
)
@click.option(
    "--dialect",
    type=click.Choice(["sqlite", "postgresql"]),
    default="sqlite",
    show_default=True,
    help="The engine to print the statements for.",
)
@click.option("--down", is_flag=True, help="Print the downgrade instead.")
def show(output: Output, revision: str, dialect: str, *, down: bool) -> None:
    """Print the SQL of one revision.

    REV is an id or 'head'. Uses no database.
    """
    from nextcloud_mcp_server.authoring.create import ORDER, require_one_line
    from nextcloud_mcp_server.migrate.alembic_commands import write_sql

    known = load_history()
    wanted = known.head if revision == "head" else revision
    if wanted not in known:
        raise unknown_target(wanted, known)
    index = known.revisions.index(wanted)
    below = known.revisions[index - 1] if index else None
    start, target = (wanted, below) if down else (below, wanted)
    require_one_line(known.directory, rules=ORDER)
    sql = StringIO()
    try:
        write_sql(known, start, target, sql, dialect=dialect, down=down)
    except TokenStorageError:
        raise
    except Exception as error:
        # A migration that is being written may raise anything.
        raise TokenStorageError(
            f"Revision {wanted} fails while its SQL is generated: "
            f"{' '.join(str(error).split()).rstrip('.') or type(error).__name__}.",
            code="migration-failed",
            remedy="Find the line with: nextcloud-mcp-server db lint",
        ) from error
    document = {"revision": wanted, "dialect": dialect, "before": start, "after": target}
    output.result({**document, "sql": sql.getvalue()}, sql.getvalue().rstrip("\n"))
