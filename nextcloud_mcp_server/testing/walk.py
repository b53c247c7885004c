"""Run the revisions one by one, up and down, and check that no row changes.

Each revision runs as in the program: through Alembic, in one transaction, with foreign keys off
and checked before the commit. There is no lock, backup or sync, so a step takes milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import StaticPool, create_engine

from nextcloud_mcp_server.backends.sqlite.catalog import read_snapshot
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only, open_connection
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.backends.sqlite.transaction import MIGRATION_PRAGMAS, SqliteTransaction
from nextcloud_mcp_server.errors import counted
from nextcloud_mcp_server.filesystem.files import private_file
from nextcloud_mcp_server.filesystem.paths import absolute
from nextcloud_mcp_server.migrate import alembic_commands, journal, verify
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.inspect import inspect, known_history, no_database
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.migrate.typed_revision import unknown_target
from nextcloud_mcp_server.schema.history import BASE
from nextcloud_mcp_server.schema.structure import gaps
from nextcloud_mcp_server.testing.changes import Changes, RowChanges, Statements
from nextcloud_mcp_server.testing.contents import (
    Contents,
    changed,
    difference,
    read_catalogue,
    read_contents,
    without_surplus,
)
from nextcloud_mcp_server.testing.rows import Rows, WaitingRows
from nextcloud_mcp_server.testing.templates import HEAD


@dataclass(frozen=True, slots=True)
class Step:
    """One revision that was run (``up``) or undone, with the number of compared rows by table.

    ``before`` and ``after`` are revisions, or ``base``.
    """

    before: str
    after: str
    up: bool
    rows: Mapping[str, int]

    @property
    def revision(self) -> str:
        """The revision that was run or undone."""
        return self.after if self.up else self.before

    @property
    def name(self) -> str:
        """The revision and its direction."""
        return f"revision {self.revision}, {'upgrade' if self.up else 'downgrade'}"

    def __str__(self) -> str:
        """Return ``005 -> 006``."""
        return f"{self.before} -> {self.after}"


#: Called after each step.
Each = Callable[[Step], object]


class MigrationWalk:
    """A database that is migrated one revision at a time.

    Each step asserts that every row of a table that exists before and after keeps the value and
    type of each common column, except for declared changes, which must happen exactly; that no
    row refers to a missing one; that the program accepts the result as the revision; and that a
    revision reached again has the same tables, columns, indexes and keys as before.

    Attributes:
        database: the file.
        revision: the current revision; ``base`` for none.
        steps: every step so far.
    """

    def __init__(
        self,
        database: Path,
        *,
        rows: Rows | None = None,
        changes: Mapping[str, Changes] | None = None,
    ) -> None:
        self.database = database
        self.steps: list[Step] = []
        self._history = known_history()
        self._changes = dict(changes or {})
        for revision in self._changes:
            self._place(revision)
        #: The ids of the changes that rows went through.
        self._used: set[int] = set()
        self.revision = self._start = _start(database)
        self._raw = open_connection(database, isolation_level=None, check_same_thread=False)
        self._raw.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        for name, value in {**MIGRATION_PRAGMAS, "synchronous": "OFF"}.items():
            self._raw.execute(f"PRAGMA {name}={value}")
        self._engine = create_engine(
            "sqlite://", creator=lambda: self._raw, poolclass=StaticPool, hide_parameters=True
        )
        self._statements = Statements(self._engine)
        self._catalogues = {self.revision: read_catalogue(self._raw.execute)}
        self._waiting = WaitingRows(self._raw)
        self.insert(rows or {})

    def close(self) -> None:
        """Close the file, without deleting it."""
        self._engine.dispose()
        self._raw.close()

    def insert(self, rows: Rows) -> None:
        """Insert each row now, or after the step that completes the columns of its table.

        If a step drops the table, the row is inserted again with the next table of that name.

        Raises:
            AssertionError: the database refuses a row.
        """
        self._waiting.add(rows)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows that ``table`` holds now; none if there is no such table."""
        rows = read_contents(self._raw.execute).get(table.lower(), [])
        return [{name: value for name, (_, value) in row.items()} for row in rows]

    @property
    def untested(self) -> list[str]:
        """The UPDATE and DELETE statements that changed no row in any step so far."""
        return self._statements.untested

    def up(self, to: str = HEAD, *, each: Each | None = None) -> list[Step]:
        """Run every revision up to ``to``, one by one, and return the steps.

        Args:
            to: an id, or ``head``.
            each: called after each step that passed.

        Raises:
            AssertionError: a revision fails or breaks a rule of this class, no row goes through a
                declared change, or, at head, no revision has a table for a row.
            TokenStorageError: ``unknown-revision``.
        """
        return self._walk(each, max(self._place(to), self._place(self.revision)))

    def down(self, to: str = BASE, *, each: Each | None = None) -> list[Step]:
        """Undo every revision above ``to`` (an id, or ``base``), as :meth:`up` runs them."""
        return self._walk(each, min(self._place(to), self._place(self.revision)))

    def round_trip(self, *, each: Each | None = None) -> list[Step]:
        """Go up to head, down to the first revision of the walk, and up again."""
        head = self._place(HEAD)
        return self._walk(each, head, self._place(self._start), head)

    def _place(self, revision: str) -> int:
        if revision == BASE:
            return 0
        wanted = self._history.head if revision == HEAD else revision
        if wanted not in self._history:
            raise unknown_target(revision, self._history)
        return 1 + self._history.revisions.index(wanted)

    def _walk(self, each: Each | None, *targets: int) -> list[Step]:
        path, begun = (BASE, *self._history.revisions), len(self.steps)
        for target in targets:
            while (place := path.index(self.revision)) != target:
                up = place < target
                step = self._step(path[place + 1 if up else place - 1], up=up)
                if each is not None:
                    each(step)
        for step in self.steps:
            for table, change in ((t, c) for t, cs in self._declared(step).items() for c in cs):
                if id(change) not in self._used:
                    what = f"no row of {table} goes through the declared change {change}"
                    raise AssertionError(f"{step.name}: {what}")
        if self.revision == self._history.head:
            self._waiting.require_inserted()
        return self.steps[begun:]

    def _step(self, to: str, *, up: bool) -> Step:
        step = Step(self.revision, to, up, {})
        self._statements.step = step.name
        before = read_contents(self._raw.execute)
        with _named(step):
            self._run(step)
            after = read_contents(self._raw.execute)
            self._check(step)
            step = Step(step.before, to, up, self._compare(step, before, after))
        self.revision = to
        self.steps.append(step)
        with _named(step):
            self._waiting.insert()
        return step

    def _run(self, step: Step) -> None:
        with self._engine.connect() as connection, connection.begin():
            self._raw.execute("BEGIN IMMEDIATE")
            transaction = SqliteTransaction(connection)
            broken = transaction.broken_references()
            run = alembic_commands.upgrade if step.up else alembic_commands.downgrade
            run(connection, self._history, step.after)
            if new := transaction.broken_references() - broken:
                number = counted(len(new), "dangling reference")
                raise AssertionError(f"leaves {number}: {min(new)}")

    def _check(self, step: Step) -> None:
        """Raise AssertionError if the program would not accept the result as the revision."""
        snapshot = read_snapshot(self._raw.execute)
        found = classify(snapshot, self._history)
        counts_as = BASE if found.state is State.NEW else found.recorded
        if found.refused or counts_as != step.after:
            raise AssertionError(f"leaves a database that is {found.state}: {found.reason}")
        if step.after != BASE:
            wanted = self._history.structure(step.after)
            if lacks := gaps(snapshot.structure, wanted):
                raise AssertionError(f"leaves a database that lacks {lacks}")
        catalogue = read_catalogue(self._raw.execute)
        known = self._catalogues.setdefault(step.after, catalogue)
        names = {n for n in {*known, *catalogue} if known.get(n) != catalogue.get(n)}
        if names:
            # A former release had made a table in another shape, or with parts of a later
            # revision, which the downgrade has dropped.
            made = self._made(step.after)
            names -= {
                n
                for n in names & self._history.shapes.keys()
                if catalogue.get(n) in (made.get(n), without_surplus(known.get(n), made.get(n)))
            }
        if names:
            others = ", ".join(sorted(names))
            raise AssertionError(f"does not restore {step.after} as it was: {others}")

    def _made(self, revision: str) -> Mapping[str, object]:
        """Return the definitions of the tables as the revisions up to ``revision`` make them."""
        structure = self._history.structure(revision)
        with closing(open_connection(":memory:")) as connection:
            for table in structure.tables.values():
                connection.execute(table.sql)
            for sql in structure.indexes.values():
                connection.execute(sql)
            return read_catalogue(connection.execute)

    def _declared(self, step: Step) -> RowChanges:
        changes = self._changes.get(step.revision, Changes())
        return changes.upgrade if step.up else changes.downgrade

    def _compare(
        self, step: Step, before: Mapping[str, Contents], after: Mapping[str, Contents]
    ) -> dict[str, int]:
        declared = self._declared(step)
        may_lose = alembic_commands.deleting(self._history, [step.revision]) - declared.keys()
        compared = {}
        for table in sorted(before.keys() & after.keys() - may_lose):
            wanted = changed(before[table], declared.get(table, ()), self._used)
            if problem := difference(table, wanted, after[table], more=table == journal.TABLE):
                raise AssertionError(problem)
            compared[table] = len(before[table])
        return compared


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """Add the revision and the direction to the message of an error in the body."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{step.name} ({step}), {error}") from error.__cause__
    except Exception as error:
        # A migration may raise anything.
        text = verify.one_line(error)
        raise AssertionError(f"{step.name} ({step}), fails: {text}") from error


def _start(database: Path) -> str:
    """Return the revision that ``database`` counts as, and write it into the file if missing.

    Raises:
        TokenStorageError: a start would refuse the file.
    """
    with closing(connect_read_only(database)) as connection:
        found = classify(read_snapshot(connection.execute), known_history())
    if found.state is State.NEW:
        return BASE
    # A file from before migrations is stamped here, and missing objects are added.
    return prepare(SqliteDatabase(database), target=found.base).after


class StartWalk:
    """Begins walks in ``folder``; created by the fixture ``migration_walk``."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self._folder = folder
        self._opened = opened
        self._numbers = count(1)

    def __call__(
        self,
        database: str | os.PathLike[str] | None = None,
        *,
        rows: Rows | None = None,
        changes: Mapping[str, Changes] | None = None,
    ) -> MigrationWalk:
        """Begin a walk with a copy of ``database``, or with an empty file if it is None.

        Raises:
            TokenStorageError: there is no such database, or a start would refuse it.
        """
        copy = self._folder / f"tokens-{next(self._numbers)}-walking.db"
        with private_file(copy, copy) as partial:
            if database is not None:
                _copy(SqliteDatabase(absolute(Path(database))), partial)
            partial.rename(copy)
        return self._opened.enter_context(closing(MigrationWalk(copy, rows=rows, changes=changes)))


def _copy(place: SqliteDatabase, to: Path) -> None:
    """Copy a database with what is in its ``-wal``."""
    found = inspect(place)
    if not found.exists:
        raise no_database(place)
    found.accepted()
    with (
        readable(place.path) as (source, _),
        closing(connect_read_only(source)) as old,
        closing(open_connection(to)) as new,
    ):
        old.backup(new)
