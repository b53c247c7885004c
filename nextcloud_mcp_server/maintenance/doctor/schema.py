"""Checks of the schema: state, structure, version rows, tables left over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nextcloud_mcp_server.backends.sqlite.catalog import count
from nextcloud_mcp_server.errors import counted
from nextcloud_mcp_server.maintenance.corrections import leftover_tables
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.integrity import restore_command
from nextcloud_mcp_server.maintenance.doctor.subject import Opened, Subject
from nextcloud_mcp_server.migrate.plan import State, plan, refusal


def state(subject: Subject) -> Iterator[Finding]:
    """What a start would find, and whether it would go on."""
    name, opened = "state", subject.opened
    if opened is None:
        return
    finding = opened.finding
    if finding.refused:
        yield _refused(subject, opened)
    elif finding.state is State.AT_HEAD:
        yield Finding(name, Level.OK, f"at head, {opened.history.head}")
    else:
        steps = ", ".join(plan(finding, opened.history, subject.path).steps)
        owed = "creates it" if finding.state is State.NEW else f"runs {steps or 'nothing'}"
        what = f"{finding.state}: {finding.reason}; a start {owed}"
        if subject.closed:
            yield Finding(name, Level.NOTE, f"{what}, where it may write (see writable)")
        else:
            yield Finding(name, Level.NOTE, what, subject.command("upgrade"))


def _refused(subject: Subject, opened: Opened) -> Finding:
    error = refusal(opened.finding, opened.history, subject.path)
    what = f"{opened.finding.state}: {opened.finding.reason}"
    if opened.amends:
        return Finding("state", Level.ERROR, what, subject.command("repair"), mendable=True)
    lost = {State.CORRUPT, State.INCONSISTENT}
    mend = restore_command(subject) if opened.finding.state in lost else None
    return Finding("state", Level.ERROR, what if mend else f"{what}. {error.remedy}", mend)


def structure(subject: Subject) -> Iterator[Finding]:
    """Whether every table, column and index is there that its revision has."""
    name, opened = "structure", subject.opened
    if opened is None or not opened.readable or opened.finding.state is State.FOREIGN:
        return
    mend, before = subject.command("repair"), len(problems := list(_structure(opened)))
    for level, what in problems:
        yield Finding(name, level, what, mend, mendable=True)
    if not before and not opened.finding.refused and opened.finding.base:
        what = f"it has every table, column and index of {opened.finding.base}"
        yield Finding(name, Level.OK, what)


def _structure(opened: Opened) -> Iterator[tuple[Level, str]]:
    for rename in opened.amends.renames if opened.amends else ():
        where = f"{rename.table}.{rename.column}"
        yield Level.ERROR, f"{where} is {rename.wanted}, and its name was hit by a flipped bit"
    finding = opened.amends.finding if opened.amends else opened.finding
    for table in finding.adopted:
        yield Level.WARNING, f"{table} was being made anew: its filled copy has to be renamed back"
    for table in finding.unusable:
        yield Level.WARNING, f"{table} has the shape of a draft that no release can fill"
    if finding.gaps:
        yield Level.WARNING, f"it lacks {finding.gaps}"


def version(subject: Subject) -> Iterator[Finding]:
    """Whether the version table holds one row, and one that the tables do not deny."""
    name, opened = "version", subject.opened
    if opened is None or not opened.readable:
        return
    if opened.finding.state in {State.FOREIGN, State.NEW}:
        return
    mend = subject.command("repair")
    if opened.amends and opened.amends.forgets:
        base = opened.amends.finding.base
        what = f"{opened.finding.reason}, and the tables are those of {base}"
        yield Finding(name, Level.ERROR, what, mend, mendable=True)
    elif opened.finding.state in {State.AMBIGUOUS_VERSION, State.UNKNOWN_REVISION}:
        yield Finding(name, Level.ERROR, opened.finding.reason)
    elif opened.seen.versions is None:
        what = f"there is no version table; the tables are those of {opened.finding.base}"
        yield Finding(name, Level.NOTE, what, mend, mendable=True)
    elif opened.finding.recorded is None:
        what = f"no revision is recorded; the tables are those of {opened.finding.base}"
        yield Finding(name, Level.WARNING, what, mend, mendable=True)
    elif not opened.finding.tidy:
        what = f"it holds {len(opened.seen.versions)} rows, and one of them says something"
        yield Finding(name, Level.WARNING, what, mend, mendable=True)
    else:
        yield Finding(name, Level.OK, f"it records {opened.finding.recorded}")


def leftovers(subject: Subject) -> Iterator[Finding]:
    """Whether tables were left over by a recreation that was cut short."""
    name, opened = "leftover tables", subject.opened
    if opened is None or not opened.readable or opened.finding.state is State.FOREIGN:
        return
    rows = leftover_rows(opened)
    for table, number in rows.items():
        if number:
            what = f"{table} was left over and holds {counted(number, 'row')}: look, then drop it"
            yield Finding(name, Level.WARNING, what)
        else:
            what = f"{table} was left over and is empty"
            yield Finding(name, Level.NOTE, what, subject.command("repair"), mendable=True)
    if not rows:
        yield Finding(name, Level.OK, "there are none")


def leftover_rows(opened: Opened) -> Mapping[str, int]:
    """How many rows each table that was left over holds."""
    with opened.reader() as connection:
        return {
            table: count(connection.execute, table)
            for table in leftover_tables(opened.seen.structure, opened.history)
        }
