"""What a unit of work sees of a database, and what a pool promises.

A *unit of work* is a plain function that executes prebuilt SQLAlchemy Core statements on
the :class:`Connection` it is given. It never sees a pool, a driver or a dialect name, so
the backend is free to decide how, where and with which others it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Executable, Row

T = TypeVar("T")


class Connection(Protocol):
    """The narrow door to the database that a unit of work is handed."""

    def all(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        """Execute and return every row."""
        ...

    def first(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Row[Any] | None:
        """Execute and return the first row, or None."""
        ...

    def run(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Execute a write and return the number of rows it changed."""
        ...


class Pool(Protocol):
    """An open database: units of work run through it until it is closed."""

    async def read(self, unit: Callable[[Connection], T]) -> T:
        """Run ``unit`` in a read transaction."""
        ...

    async def write(self, unit: Callable[[Connection], T]) -> T:
        """Run ``unit`` in a write transaction.

        The answer is given only after a durable commit. When ``unit`` raises, nothing of
        it is kept and the error is re-raised.
        """
        ...

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""
        ...
