"""``db upgrade``: create the database or bring it to head, or say what that would be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.options import Named, database_options, revision_option
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import counted, printable
from nextcloud_mcp_server.filesystem.space import readable
from nextcloud_mcp_server.migrate import summary
from nextcloud_mcp_server.migrate.summary import outcome_lines

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.rehearse import Rehearsal, Script
    from nextcloud_mcp_server.migrate.startup import Outcome


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """What ``db upgrade`` did, for ``--json``."""
    return {
        "database": str(outcome.database),
        "state": outcome.state.value,
        "action": outcome.action.value,
        "before": outcome.before,
        "after": outcome.after,
        "stamped": outcome.stamped,
        "steps": list(outcome.steps),
        "mended": list(outcome.mended),
        "backup": None if outcome.backup is None else str(outcome.backup),
        "journal_mode": outcome.journal_mode or None,
        "seconds": round(outcome.seconds, 6),
        "warning": outcome.warning or None,
    }


@click.command()
@database_options
@revision_option("Stop at this revision.  [default: head]")
@click.option("--dry-run", is_flag=True, help="Rehearse it on a private copy; change nothing.")
@click.option("--sql", "as_sql", is_flag=True, help="Print its statements; change nothing.")
def upgrade(
    output: Output, named: Named, revision: str | None, *, dry_run: bool, as_sql: bool
) -> int:
    """Create the database or bring it to head.

    The same as a start of the server does: lock, look, back up, one transaction. The keys
    are proven too, where there are any; none is needed.

    With --dry-run all of it is done to a copy beside the database, which is gone afterwards:
    the steps, the time and the space it needs are told. With --sql the statements from the
    database's own revision are printed; there are none where it has to be stamped or mended.
    """
    target = None if revision == "head" else revision
    if dry_run and as_sql:
        raise click.UsageError("--dry-run and --sql are two different things; give one of them.")
    if as_sql:
        return _print(output, named, target)
    from nextcloud_mcp_server.cli.console_log import plain_log  # noqa: PLC0415 - takes longer than a look
    from nextcloud_mcp_server.cli.progress import shown  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.crypto.keyfile import key_verifier as prover  # noqa: PLC0415 - see above

    settings = named.settings(output)
    unlock = prover(settings)
    if dry_run:
        from nextcloud_mcp_server.maintenance.rehearse import rehearse  # noqa: PLC0415 - see above

        with plain_log(output), shown(output) as listener:
            done = rehearse(settings.database, target=target, unlock=unlock, progress=listener)
        output.result(rehearsal_facts(done), *rehearsal_lines(done))
        return 0
    from nextcloud_mcp_server.cli.interrupts import interruptible  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.migrate.startup import prepare  # noqa: PLC0415 - see above

    with interruptible(output, settings.database), plain_log(output), shown(output) as listener:
        outcome = prepare(
            settings.database,
            target=target,
            unlock=unlock,
            lock_timeout=settings.lock_timeout,
            listener=listener,
        )
    output.result(outcome_facts(outcome), *outcome_lines(outcome))
    return 0


def _print(output: Output, named: Named, target: str | None) -> int:
    from nextcloud_mcp_server.maintenance.rehearse import script  # noqa: PLC0415 - see above

    # Nothing but SQL may stand on stdout; the first comment names the database.
    settings = named.settings(Output(as_json=True, debug=output.debug))
    made = script(settings.database, target=target)
    output.result(script_facts(made), *script_lines(made))
    return 0


def rehearsal_facts(done: Rehearsal) -> dict[str, Any]:
    """What a rehearsal has shown, for ``--json``."""
    return {
        "database": str(done.database),
        "dry_run": True,
        "state": done.report.finding.state.value,
        "action": done.todo.action.value,
        "before": done.todo.start,
        "after": done.todo.target,
        "stamped": done.todo.stamp is not None,
        "steps": list(done.todo.steps),
        "mended": list(done.todo.mends),
        "rows": done.rows,
        "seconds": round(done.seconds, 6),
        "bytes_backup": done.need.backup,
        "bytes_needed": done.need.most,
        "bytes_free": done.free,
    }


def rehearsal_lines(done: Rehearsal) -> tuple[str, ...]:
    """What a rehearsal has shown, for people."""
    path = printable(str(done.database))
    if not done.todo.migrates:
        return (f"{path} is at revision {done.todo.target} already: nothing to do",)
    end = f"revision {done.todo.target}"
    free = "an unknown number of bytes" if done.free is None else readable(done.free)
    rows = counted(done.rows, "row")
    backup, most = readable(done.need.backup), readable(done.need.most)
    return (
        f"{path}: an upgrade {summary.plan_words(done.todo)}",
        f"rehearsed on a copy with {rows} in {done.seconds:.2f} s: it ends at {end}",
        f"space needed beside it meanwhile: {backup} for its backup, {most} in all ({free} free)",
        "nothing was changed",
    )


def script_facts(made: Script) -> dict[str, Any]:
    """The statements, for ``--json``."""
    return {
        "database": str(made.database),
        "before": made.todo.start,
        "after": made.todo.target,
        "steps": list(made.todo.steps),
        "sql": made.sql,
    }


def script_lines(made: Script) -> tuple[str, ...]:
    """The statements, after comments that say what they are for."""
    path, target = printable(str(made.database)), made.todo.target
    if not made.sql:
        return (f"-- {path} is at revision {target} already: nothing to do",)
    return (
        f"-- {path}: from revision {made.todo.start or 'base'} to {target}.",
        "-- For a database that is exactly there. Stop every server and make a backup first.",
        made.sql.rstrip("\n"),
    )
