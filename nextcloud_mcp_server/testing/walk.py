"""Walk a database up and down its revisions, one by one, and hold what it must not lose.

Each revision runs as the program runs it: through Alembic, on a connection that was handed
over, in one transaction, with foreign keys off and checked before the commit. What a start
does around that (the lock, the backup, syncing) is left out, so that a step takes milliseconds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import StaticPool, create_engine

from nextcloud_mcp_server.backends.sqlite.catalog import observe
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.transaction import MIGRATION_PRAGMAS
from nextcloud_mcp_server.errors import counted
from nextcloud_mcp_server.migrate import alembic_commands, journal, verify
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import State, unknown_target
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.schema.history import BASE
from nextcloud_mcp_server.schema.structure import gaps
from nextcloud_mcp_server.testing.contents import (
    Contents,
    difference,
    read_catalogue,
    read_contents,
)
from nextcloud_mcp_server.testing.rows import Joining, Rows

_HEAD: Final = "head"


@dataclass(frozen=True, slots=True)
class Step:
    """One revision that was run or undone.

    Attributes:
        before: the revision before it; ``base`` for none.
        after: the revision after it.
        up: whether it was run; otherwise it was undone.
        rows: how many rows of each table were there before and after, and compared.
    """

    before: str
    after: str
    up: bool
    rows: Mapping[str, int]

    @property
    def revision(self) -> str:
        """The revision that was run or undone."""
        return self.after if self.up else self.before

    def __str__(self) -> str:
        """As people write it: ``005 -> 006``."""
        return f"{self.before} -> {self.after}"


#: Called after each step.
Each = Callable[[Step], object]


class StartWalk(Protocol):
    """What the fixture ``migration_walk`` gives."""

    def __call__(
        self,
        database: str | os.PathLike[str] | None = None,
        *,
        rows: Rows | None = None,
        rewrites: Mapping[str, Collection[str]] | None = None,
    ) -> MigrationWalk:
        """Begin a walk."""
        ...


class MigrationWalk:
    """A database on its way from revision to revision.

    Made by the fixture ``migration_walk``. At each step it asserts that every row of a table
    that is there before and after is kept, byte for byte and type for type, in every column
    that is there before and after; that no row points at nothing; that the program takes the
    result for the revision that it is; and that a revision which is reached again has the
    same tables, columns, indexes and keys as before. What fails is told by its revision.

    Attributes:
        database: the file.
        revision: where it stands; ``base`` for none.
        steps: every step so far.
    """

    def __init__(
        self,
        database: Path,
        *,
        rows: Rows | None = None,
        rewrites: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self.database = database
        self.steps: list[Step] = []
        self._history = known_history()
        self._rewrites = dict(rewrites or {})
        self._catalogues: dict[str, Mapping[str, object]] = {}
        self.revision = self._start = _start(database)
        self._raw = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._raw.text_factory = _text
        for name, value in {**MIGRATION_PRAGMAS, "synchronous": "OFF"}.items():
            self._raw.execute(f"PRAGMA {name}={value}")
        self._engine = create_engine(
            "sqlite://", creator=lambda: self._raw, poolclass=StaticPool, hide_parameters=True
        )
        self._catalogues[self.revision] = read_catalogue(self._raw.execute)
        self._joining = Joining(self._raw)
        self.insert(rows or {})

    def close(self) -> None:
        """Close the file; it stays where it is."""
        self._engine.dispose()
        self._raw.close()

    def insert(self, rows: Rows) -> None:
        """Put ``rows`` into the tables, now or as soon as a step makes them.

        A row waits for a revision that has its table and all of its columns. Where a step
        drops the table, the row waits for it to come back.

        Raises:
            AssertionError: the database does not take a row.
        """
        self._joining.add(rows)
        self._joining.join()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows that ``table`` holds now; none where there is no such table."""
        found = read_contents(self._raw.execute).get(table.lower())
        return found.dicts() if found else []

    def up(self, to: str = _HEAD, *, each: Each | None = None) -> list[Step]:
        """Run every revision up to ``to``, one by one; the steps walked.

        Args:
            to: an id, or ``head``.
            each: called after each step, when it has passed.

        Raises:
            AssertionError: with the revision that fails, or that does not keep what it must;
                at head also for a row that no revision had a place for.
            TokenStorageError: ``unknown-revision``.
        """
        path = self._path(to)
        target = path.index(self._history.head if to == _HEAD else to)
        walked = [
            self._step(path[n], each) for n in range(path.index(self.revision) + 1, target + 1)
        ]
        if self.revision == self._history.head:
            self._joining.require_all()
        return walked

    def down(self, to: str = BASE, *, each: Each | None = None) -> list[Step]:
        """Undo every revision above ``to``, one by one; the steps walked.

        Args:
            to: an id, or ``base``.
            each: called after each step, when it has passed.

        Raises:
            AssertionError: with the revision that fails, or that does not keep what it must.
            TokenStorageError: ``unknown-revision``.
        """
        path = self._path(to)
        above = range(path.index(self.revision) - 1, path.index(to) - 1, -1)
        return [self._step(path[n], each) for n in above]

    def round_trip(self, *, each: Each | None = None) -> list[Step]:
        """Up to head, down to where the walk began, and up again; the steps walked.

        Raises:
            AssertionError: as :meth:`up` and :meth:`down`.
        """
        return [*self.up(each=each), *self.down(self._start, each=each), *self.up(each=each)]

    def _path(self, to: str) -> tuple[str, ...]:
        if to not in {_HEAD, BASE} and to not in self._history:
            raise unknown_target(to, self._history)
        return (BASE, *self._history.revisions)

    def _step(self, to: str, each: Each | None) -> Step:
        path = self._path(to)
        up = path.index(to) > path.index(self.revision)
        step = Step(self.revision, to, up, {})
        before = read_contents(self._raw.execute)
        with _blaming(step):
            self._run(step)
            after = read_contents(self._raw.execute)
            self._judge(step)
            step = Step(step.before, to, up, self._compare(step, before, after))
        self.revision = to
        self.steps.append(step)
        with _blaming(step):
            self._joining.join()
        if each is not None:
            each(step)
        return step

    def _run(self, step: Step) -> None:
        broken = verify.broken_references(self._raw.execute)
        with self._engine.connect() as connection, connection.begin():
            self._raw.execute("BEGIN IMMEDIATE")
            run = alembic_commands.upgrade if step.up else alembic_commands.downgrade
            run(connection, self._history, step.after)
            if new := verify.broken_references(self._raw.execute) - broken:
                raise AssertionError(
                    f"leaves {counted(len(new), 'dangling reference')}: {min(new)}"
                )

    def _judge(self, step: Step) -> None:
        """Refuse a result that the program would not take for the revision."""
        seen = observe(self._raw.execute)
        found = classify(seen, self._history)
        counts_as = BASE if found.state is State.NEW else found.recorded
        if found.refused or counts_as != step.after:
            raise AssertionError(f"leaves a database that is {found.state}: {found.reason}")
        if step.after != BASE:
            wanted = self._history.structure(step.after)
            if lacks := gaps(seen.structure, wanted):
                raise AssertionError(f"leaves a database that lacks {lacks}")
        catalogue = read_catalogue(self._raw.execute)
        known = self._catalogues.setdefault(step.after, catalogue)
        if catalogue != known:
            names = [n for n in {*known, *catalogue} if known.get(n) != catalogue.get(n)]
            raise AssertionError(
                f"does not give back what {step.after} was: {', '.join(sorted(names))}"
            )

    def _compare(
        self, step: Step, before: Mapping[str, Contents], after: Mapping[str, Contents]
    ) -> dict[str, int]:
        may_lose = alembic_commands.deleting(self._history, [step.revision])
        compared = {}
        for table in before.keys() & after.keys() - may_lose:
            rewrites = self._rewrites.get(table, ())
            more = table == journal.TABLE
            if problem := difference(table, before[table], after[table], rewrites, more=more):
                raise AssertionError(problem)
            compared[table] = len(before[table].rows)
        return dict(sorted(compared.items()))


@contextmanager
def _blaming(step: Step) -> Iterator[None]:
    """Tell what fails in the body by its revision and its direction."""
    where = f"revision {step.revision}, on the way {'up' if step.up else 'down'} ({step}),"
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{where} {error}") from error.__cause__
    except Exception as error:
        # Whatever a migration raises: it is its author's.
        raise AssertionError(f"{where} fails: {verify.one_line(error)}") from error


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _start(database: Path) -> str:
    """The revision that ``database`` counts as, written into it where it was not.

    Raises:
        TokenStorageError: the refusal of a file that no start would touch.
    """
    with closing(connect_read_only(database)) as connection:
        found = classify(observe(connection.execute), known_history())
    if found.state is State.NEW:
        return BASE
    # One from before migrations is stamped here, gaps are filled, and the rest is refused.
    return prepare(database, target=found.base).after


def copied(source: Path | None, target: Path) -> Path:
    """A private copy of ``source``, what is in its ``-wal`` included; None for an empty file."""
    target.touch(mode=0o600)
    if source is not None:
        with closing(connect_read_only(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
    return target
