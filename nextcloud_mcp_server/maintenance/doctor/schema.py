"""Checks of the schema: state, structure, version rows, leftover tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nextcloud_mcp_server.backends.sqlite.catalog import count
from nextcloud_mcp_server.backends.sqlite.integrity import references
from nextcloud_mcp_server.backends.sqlite.usable import REMOVAL, unusable_in
from nextcloud_mcp_server.errors import counted
from nextcloud_mcp_server.maintenance.corrections import leftover_tables, outlived_tables
from nextcloud_mcp_server.maintenance.doctor.context import Contents, Context
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.migrate.classify import reused_names, triggers_on, used_tables
from nextcloud_mcp_server.migrate.plan import State, plan, refusal
from nextcloud_mcp_server.migrate.referenced import keeping, may_reference, referring


def state(context: Context) -> Iterator[Finding]:
    """Check which state a start would find, and whether it would accept it."""
    contents = context.contents
    if contents is None:
        return
    finding = contents.finding
    if finding.refused:
        yield _refused(context, contents)
    elif finding.state is State.AT_HEAD:
        yield Finding(Level.OK, f"at-head, {contents.history.head}")
    else:
        steps = ", ".join(plan(finding, contents.history, context.database).steps)
        action = "creates it" if finding.state is State.NEW else f"runs {steps or 'nothing'}"
        what = f"{finding.state}: {finding.reason}; a start {action}"
        if context.closed:
            what = f"{what}, if it can write (see writable)"
        yield Finding(Level.NOTE, what, context.command("upgrade"))


def _refused(context: Context, contents: Contents) -> Finding:
    what = f"{contents.finding.state}: {contents.finding.reason}"
    repair = context.repairable(Level.ERROR, what)
    if contents.corrected and not contents.finding.lost:
        return repair
    if contents.finding.state is State.CORRUPT:
        return context.restorable(what)
    lost = contents.finding.state is State.INCONSISTENT
    command = context.command("restore --newest") if lost else None
    if contents.corrected:
        # A repair gives the secrets up.
        return replace(repair, command=command or repair.command)
    if lost and command is None:
        what = (
            f"{what}; there is no intact backup beside it to restore: undo the change, or give db "
            "restore the path of a backup in another folder"
        )
    elif command is None:
        what = f"{what}. {refusal(contents.finding, contents.history, context.database).remedy}"
    return Finding(Level.ERROR, what, command)


def structure(context: Context) -> Iterator[Finding]:
    """Check that every table, column and index of the revision exists and can be used."""
    contents = context.tables
    if contents is None:
        return
    problems = list(_problems(contents))
    for what in problems:
        yield context.repairable(Level.WARNING, what)
    unusable = _unusable(contents)
    for table, reason in unusable.items():
        what = f"{table} was changed so that this program cannot use it: {reason}"
        # The message has the statement that removes what was attached.
        command = None if REMOVAL in reason else context.command("restore --newest")
        yield Finding(Level.ERROR, what, command)
    if not problems and not unusable and not contents.finding.refused and contents.finding.base:
        yield Finding(Level.OK, f"it has every table, column and index of {contents.finding.base}")


def _problems(contents: Contents) -> Iterator[str]:
    finding = contents.corrected or contents.finding
    for table in finding.adopted:
        yield f"the recreation of {table} was interrupted: its filled copy must be renamed back"
    for table in finding.unusable:
        yield f"{table} has the shape of a draft that no release can fill"
    if finding.gaps:
        yield f"it lacks {finding.gaps}"


def _unusable(contents: Contents) -> dict[str, str]:
    base = (contents.corrected or contents.finding).base
    return unusable_in(contents.source, used_tables(contents.history, base)) if base else {}


def triggers(context: Context) -> Iterator[Finding]:
    """Check for triggers on the tables of this program, which make none."""
    contents = context.tables
    if contents is None:
        return
    found = triggers_on(contents.seen.structure, contents.history)
    for trigger, table in found.items():
        what = f"the trigger {trigger} on {table} can change or prevent what is stored there"
        yield Finding(Level.WARNING, what)
    if not found:
        yield Finding(Level.OK, "there are none")


def version(context: Context) -> Iterator[Finding]:
    """Check that the version table holds one row that matches the tables."""
    contents = context.tables
    if contents is None or contents.finding.state is State.NEW:
        return
    finding = contents.finding
    tables = f"the tables are those of {(contents.corrected or finding).base}"
    if contents.corrected and not finding.lost:
        yield context.repairable(Level.ERROR, f"{finding.reason}, and {tables}")
    elif finding.state in {State.AMBIGUOUS_VERSION, State.UNKNOWN_REVISION}:
        yield Finding(Level.ERROR, finding.reason)
    elif contents.seen.versions is None:
        yield context.repairable(Level.NOTE, f"there is no version table; {tables}")
    elif finding.recorded is None:
        yield context.repairable(Level.WARNING, f"no revision is recorded; {tables}")
    elif not finding.tidy:
        what = f"it holds {len(contents.seen.versions)} rows for one revision"
        yield context.repairable(Level.WARNING, what)
    else:
        yield Finding(Level.OK, f"it records {finding.recorded}")


def leftovers(context: Context) -> Iterator[Finding]:
    """Check for tables that an interrupted recreation left, or that a revision drops."""
    contents = context.intact
    if contents is None:
        return
    there, base = contents.seen.structure, (contents.corrected or contents.finding).base
    tables = leftover_tables(there, contents.history)
    outlived = outlived_tables(there, contents.history, base)
    keyed = may_reference(there, contents.history)
    with contents.reader() as connection:
        for table in tables:
            if number := count(connection.execute, table):
                what = f"{table} is left over and holds {counted(number, 'row')}: check it, drop it"
                yield Finding(Level.WARNING, what)
            else:
                yield context.repairable(Level.NOTE, f"{table} is left over and is empty")
        for table, revision in outlived.items():
            rows = count(connection.execute, table)
            what = f"{table} is left over, although revision {revision} drops it"
            if keyed and (found := references(connection.execute, keyed, {table})):
                what = f"{what}, which {referring(found)}: db repair cannot drop it before"
                yield Finding(Level.WARNING, what, keeping(found, context.database))
                continue
            if rows:
                what = f"{what}; its {counted(rows, 'row')} will only be in the backup"
            yield context.repairable(Level.WARNING if rows else Level.NOTE, what)
    reused = sorted(reused_names(there, contents.history, base))
    for name in reused:
        revision = contents.history.dropped_by(name)
        what = (
            f"{name} is not of this program, although it has the name of a table that revision "
            f"{revision} drops: a downgrade below {revision} needs that name"
        )
        yield Finding(Level.NOTE, what)
    if not tables and not outlived and not reused:
        yield Finding(Level.OK, "there are none")
