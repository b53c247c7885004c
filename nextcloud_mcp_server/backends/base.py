"""What a unit of work sees of a database, and what a pool promises.

A *unit of work* is a plain function that executes prebuilt SQLAlchemy Core statements on
the :class:`Connection` it is given. It never sees a pool, a driver or a dialect name, so
the backend is free to decide how, where and with which others it runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from nextcloud_mcp_server.schema.structure import Structure

if TYPE_CHECKING:
    from sqlalchemy import Executable


T = TypeVar("T")


class Row(Protocol):
    """One row: its values by name and by position."""

    @property
    def _fields(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        ...

    def __getattr__(self, name: str) -> Any:
        """The value of the column of this name."""
        ...

    def __getitem__(self, position: int) -> Any:
        """The value of the column at this position."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Every value, in order."""
        ...


class Connection(Protocol):
    """The narrow door to the database that a unit of work is handed."""

    def all(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row]:
        """Execute and return every row."""
        ...

    def first(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Row | None:
        """Execute and return the first row, or None."""
        ...

    def run(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Execute a write and return the number of rows it changed."""
        ...


class Pool(Protocol):
    """An open database: units of work run through it until it is closed."""

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run ``unit`` in a read transaction, on one moment of the database."""
        ...

    def write(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run ``unit`` in a write transaction.

        The answer is given only after a durable commit. When ``unit`` raises, nothing of
        it is kept and the error is re-raised. Others may share its commit, and where that
        fails it is run again, alone: a unit must do nothing but to its connection.
        """
        ...

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""
        ...


class Snapshot(NamedTuple):
    """What a look has seen.

    Attributes:
        structure: tables, columns, indexes.
        versions: the rows of the version table; None without the table.
        version_column: whether the version table is Alembic's (has ``version_num``).
        journal_mode: SQLite's journal mode, lower case; empty where there is no file.
        damage: ``corrupt`` or ``not-a-database``; empty for a readable file.
        detail: what SQLite said of the damage.
        samples: some encrypted values, where they were asked for and can be read.
    """

    structure: Structure = Structure()
    versions: tuple[str | None, ...] | None = None
    version_column: bool = True
    journal_mode: str = ""
    damage: str = ""
    detail: str = ""
    samples: tuple[bytes, ...] | None = None
