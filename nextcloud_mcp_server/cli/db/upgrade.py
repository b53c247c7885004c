"""``db upgrade``: create the database or upgrade it, or show what that would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import (
    FileName,
    RevisionCommand,
    database_options,
    revision_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import counted, printable
from nextcloud_mcp_server.filesystem.paths import absolute
from nextcloud_mcp_server.filesystem.space import readable
from nextcloud_mcp_server.migrate.summary import outcome_lines, plan_line, up_to_date
from nextcloud_mcp_server.schema.history import BASE

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import Database
    from nextcloud_mcp_server.maintenance.rehearse import Rehearsal
    from nextcloud_mcp_server.migrate.plan import Plan
    from nextcloud_mcp_server.migrate.script import Script
    from nextcloud_mcp_server.migrate.startup import Outcome


@click.command(cls=RevisionCommand)
@database_options
@revision_option("Stop at this revision, or after +N steps.  [default: head]", "head")
@click.option("--dry-run", is_flag=True, help="Run it on a private copy; change nothing.")
@click.option("--sql", "as_sql", is_flag=True, help="Print its SQL statements; change nothing.")
@click.option(
    "--pg-dump",
    "dump",
    type=FileName(),
    metavar="PATH",
    help="On a server: write a dump of exactly what is migrated, with pg_dump.  [default: none]",
)
def upgrade(
    output: Output,
    option: DatabaseOption,
    revision: str | None,
    *,
    dry_run: bool,
    as_sql: bool,
    dump: str | None,
) -> None:
    """Create the database or upgrade it to head.

    Does the same as a start of the server: lock, inspect, back up, one transaction. Needs no
    encryption key; if one is set, it is verified first.

    With --dry-run everything is done to a copy beside the database, which is deleted
    afterwards; prints the steps, the time and the space it needs. With --sql prints the
    statements from the database's own revision on; fails if it has to be stamped or repaired.

    On a server of PostgreSQL no backup is made, unless --pg-dump names a file for one.
    """
    target = None if revision in {"head", "heads"} else revision
    if dry_run and as_sql:
        raise click.UsageError("--dry-run and --sql exclude each other: give only one.")
    if as_sql:
        from nextcloud_mcp_server.migrate.script import script

        print_script(output, script(quiet_database(output, option), target=target))
        return
    from nextcloud_mcp_server.cli.operation import operation
    from nextcloud_mcp_server.crypto.verification import KeyVerifier

    preview = "db upgrade --dry-run" if dry_run else ""
    settings = option.settings(output, files_only=preview, revision=target)
    verify = KeyVerifier(settings)
    if dry_run:
        from nextcloud_mcp_server.maintenance.rehearse import rehearse

        with operation(output) as progress:
            done = rehearse(settings.file, target=target, verify=verify, progress=progress)
        facts = {**rehearsal_facts(done), "unopened_secrets": verify.unopened}
        output.result(facts, *rehearsal_lines(done))
        return
    from nextcloud_mcp_server.migrate.startup import prepare

    database = connect(settings.database, dump=None if dump is None else absolute(Path(dump)))
    with operation(output, settings.database) as progress:
        outcome = prepare(
            database,
            target=target,
            verify=verify,
            lock_timeout=settings.lock_timeout,
            progress=progress,
        )
    if dump is not None and outcome.backup is None:
        why = "there was no row" if outcome.done.migrates else "nothing was migrated"
        output.note(f"warning: no dump was made, because {why}.")
    facts = {**outcome_facts(outcome), "unopened_secrets": verify.unopened}
    output.result(facts, *outcome_lines(outcome))


def quiet_database(output: Output, option: DatabaseOption) -> Database:
    """Return the database of a command that may print nothing but SQL on stdout."""
    # The first comment names the database.
    return option.database(Output(as_json=True, debug=output.debug))


def print_script(output: Output, made: Script) -> None:
    """Print the statements of an upgrade or a downgrade, with comments above them."""
    document = {
        "database": str(made.database),
        "before": made.start,
        "after": None if made.target == BASE else made.target,
        "steps": list(made.steps),
        "sql": made.sql,
    }
    if not made.sql:
        output.result(document, f"-- {up_to_date(made.database, made.target)}")
        return
    path, start = printable(str(made.database)), made.start or BASE
    output.result(
        document,
        f"-- {path}: from revision {start} to {made.target}.",
        "-- Only for a database at that revision. Stop every server and make a backup first.",
        made.sql.rstrip("\n"),
    )


def _plan_facts(todo: Plan) -> dict[str, Any]:
    return {
        "action": todo.action.value,
        "before": todo.start,
        "after": todo.target,
        "stamped": todo.stamp is not None,
        "steps": list(todo.steps),
        "mended": list(todo.mends),
    }


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome of an upgrade for ``--json``."""
    return {
        "database": str(outcome.database),
        "state": outcome.state.value,
        **_plan_facts(outcome.done),
        "backup": None if outcome.backup is None else str(outcome.backup),
        "journal_mode": outcome.journal_mode or None,
        "seconds": round(outcome.seconds, 6),
        "warning": outcome.warning or None,
    }


def rehearsal_facts(done: Rehearsal) -> dict[str, Any]:
    """Return the result of ``--dry-run`` for ``--json``."""
    return {
        "database": str(done.database),
        "dry_run": True,
        "state": done.inspection.finding.state.value,
        **_plan_facts(done.todo),
        "rows": done.rows,
        "seconds": round(done.seconds, 6),
        "bytes_backup": done.need.backup,
        "bytes_needed": done.need.most,
        "bytes_free": done.free,
    }


def rehearsal_lines(done: Rehearsal) -> tuple[str, ...]:
    """Return the result of ``--dry-run`` as lines."""
    if not done.todo.migrates:
        return (up_to_date(done.database, done.todo.target),)
    free = "an unknown number of bytes" if done.free is None else readable(done.free)
    rows = counted(done.rows, "row")
    backup, most = readable(done.need.backup), readable(done.need.most)
    return (
        f"{printable(str(done.database))}: {plan_line(done.todo)}",
        f"ran on a copy with {rows} in {done.seconds:.2f} s: it is at revision {done.todo.target}",
        f"disk space needed meanwhile: {backup} for its backup, {most} in all ({free} free)",
        "nothing was changed",
    )
