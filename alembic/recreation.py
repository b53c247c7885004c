"""Make a table of SQLite anew, where its ALTER TABLE cannot change it.

The procedure is the one that SQLite's documentation gives under "Making Other Kinds Of Table
Schema Changes": create, copy, drop, rename, and make again what went with the old table. It is
one INSERT ... SELECT, so it needs no memory for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op
from alembic.operations.ops import CreateTableOp
from alembic.util import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Alembic's own prefix: the program renames a table of such a name back where a file of
#: statements, run without a transaction, was cut short between the DROP and the RENAME.
PREFIX = "_alembic_tmp_"

_ATTACHED = """
    SELECT type, name, sql FROM sqlite_master
    WHERE lower(tbl_name) = lower(?) AND sql IS NOT NULL ORDER BY rowid
"""
_PROBE = "_token_store_probe"
_TAKEN = "SELECT lower(name) FROM sqlite_master"

Ask = Callable[..., Sequence[Sequence[Any]]]
Run = Callable[[str], None]


class Recreation:
    """A table that is to have another shape.

    Args:
        text: the module that reads and writes declarations.
        ask: answers a question about the database (or, offline, about what it will be).
        run: executes a statement, or writes it.
    """

    def __init__(self, text: ModuleType, ask: Ask, run: Run) -> None:
        self._text = text
        self._ask = ask
        self._run = run

    def reshape(
        self,
        name: str,
        elements: Sequence[Any],
        values: Mapping[str, str],
        drop: frozenset[str],
    ) -> bool:
        """Give a table its wanted shape, as ``Guards.recreate_table`` says it, names folded.

        Whether there was anything to do.
        """
        self._adopt(name)
        attached = self._ask(_ATTACHED, (name,))
        found = [(own, sql) for kind, own, sql in attached if kind == "table"]
        if not found:
            raise CommandError(f"The table {name}, which is to be recreated, is not there.")
        ((own, sql),) = found
        old = self._text.Declared.read(sql)
        wanted = self._text.Declared.read(_compiled(name, elements, old.counts))
        new = old.turned_into(wanted, drop)
        if new.same_as(old):
            return False
        sound = bool(drop) and not self._unsound()
        self._exchange(own, old, new, values)
        for kind, _, statement in attached:
            if kind == "trigger" or (
                kind == "index"
                and not any(self._text.mentions(statement.partition("(")[2], c) for c in drop)
            ):
                self._run(statement)
        if sound and (problem := self._unsound()):
            raise CommandError(f"{', '.join(sorted(drop))} of {name} cannot go: {problem}")
        return True

    def _adopt(self, name: str) -> None:
        """Take the filled copy for the table, where a recreation of old was cut short."""
        taken = {row[0] for row in self._ask(_TAKEN)}
        if name.lower() not in taken and (copy := PREFIX + name).lower() in taken:
            self._rename(copy, name)

    def _exchange(self, own: str, old: Any, new: Any, values: Mapping[str, str]) -> None:
        quoted = self._text.quoted
        taken = {row[0] for row in self._ask(_TAKEN)}
        # A leftover of this name is somebody's rows, and stays.
        aside, number = PREFIX + own, 1
        while aside.lower() in taken:
            number += 1
            aside = f"{PREFIX}{own}_{number}"
        self._run(new.sql(aside))
        columns = _copied(own, old, new, values, quoted)
        if not new.numbers_rows and new.rowid and new.rowid == old.rowid:
            columns = {new.rowid: old.rowid, **columns}
        self._run(
            f"INSERT INTO {quoted(aside)} ({', '.join(columns)}) "  # noqa: S608
            f"SELECT {', '.join(columns.values())} FROM {quoted(own)}"
        )
        if new.counts and old.counts:
            self._keep_count(own, aside)
        self._run(f"DROP TABLE {quoted(own)}")
        self._rename(aside, own)

    def _keep_count(self, own: str, aside: str) -> None:
        """Let the new table go on counting where the old one was, past rows that are gone."""
        self._run(f"DELETE FROM sqlite_sequence WHERE name = {_literal(aside)}")  # noqa: S608
        self._run(
            "INSERT INTO sqlite_sequence (name, seq) "  # noqa: S608
            f"SELECT {_literal(aside)}, seq FROM sqlite_sequence WHERE name = {_literal(own)}"
        )

    def _rename(self, old: str, new: str) -> None:
        """Rename without a look at views, which name a table that is not there just now."""
        with self._pragma("ON"):
            self._run(f"ALTER TABLE {self._text.quoted(old)} RENAME TO {self._text.quoted(new)}")

    @contextmanager
    def _pragma(self, wanted: str) -> Iterator[None]:
        before = "ON" if self._ask("PRAGMA legacy_alter_table")[0][0] else "OFF"
        if before == wanted:
            yield
            return
        self._run(f"PRAGMA legacy_alter_table={wanted}")
        try:
            yield
        finally:
            self._run(f"PRAGMA legacy_alter_table={before}")

    def _unsound(self) -> str:
        """What SQLite finds wrong with a view or a trigger; empty where nothing is.

        It looks through all of them when a column is dropped, whatever the table.
        """
        with self._pragma("OFF"):
            self._ask(f"CREATE TABLE {_PROBE} (a, b)")
            try:
                self._ask(f"ALTER TABLE {_PROBE} DROP COLUMN b")
            except sa.exc.OperationalError as error:
                return str(error.orig)
            finally:
                self._ask(f"DROP TABLE {_PROBE}")
        return ""


def _compiled(name: str, elements: Sequence[Any], counts: bool) -> str:
    """The CREATE TABLE of ``elements``; AUTOINCREMENT stays where it was."""
    options = {"sqlite_autoincrement": True} if counts else {}
    context = op.get_context()
    table = CreateTableOp(name, list(elements), **options).to_table(context)
    return str(sa.schema.CreateTable(table).compile(dialect=context.dialect))


def _copied(
    own: str, old: Any, new: Any, values: Mapping[str, str], quoted: Callable[[str], str]
) -> dict[str, str]:
    """The expression for each column that is filled, by its quoted name."""
    found = {}
    for name, declaration in new.columns.items():
        if declaration.is_generated:
            continue
        if name in values:
            found[quoted(declaration.name)] = f"({values[name]})"
        elif name in old.columns:
            found[quoted(declaration.name)] = quoted(old.columns[name].name)
        elif " not null" in declaration.plain and " default " not in declaration.plain:
            raise CommandError(
                f"{own} lacks the required column {declaration.name}: say in values what it "
                "is for the rows that are there."
            )
    return found


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
