"""The rows of the table ``keys``, as every engine reads them."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_letters, digits
from typing import Any, Final, NamedTuple

from nextcloud_mcp_server.schema.structure import KEYS, Structure, quoted

#: What this program writes into the columns that are texts.
_WORD: Final = frozenset(ascii_letters + digits + "-._=")
_MALFORMED: Final = "malformed"


class RegisteredKey(NamedTuple):
    """A row of the table ``keys``; see :mod:`nextcloud_mcp_server.crypto.registration`."""

    id: str
    kind: str
    state: str
    check: str
    fingerprint: str
    created_at: int

    @classmethod
    def of(cls, row: Iterable[Any]) -> RegisteredKey:
        """Return a row as it was read; what this program never writes becomes ``malformed``.

        So nothing in a row that somebody has forged raises an error, or gets into a message.
        """
        *words, created_at = row
        name, kind, state, check, fingerprint = map(_word, words)
        at = created_at if isinstance(created_at, int) else 0
        return cls(name, kind, state, check, fingerprint, at)


def _word(value: object) -> str:
    return value if isinstance(value, str) and _WORD.issuperset(value) else _MALFORMED


def has_keys(structure: Structure) -> bool:
    """Return whether there is a table of keys as this program makes it."""
    table = structure.tables.get(KEYS)
    return table is not None and set(RegisteredKey._fields) <= table.columns.keys()


def registered_keys(table: str) -> str:
    """Return the statement that reads the registered keys from ``table``, a quoted name."""
    names = ", ".join(map(quoted, RegisteredKey._fields))
    return f"SELECT {names} FROM {table} ORDER BY created_at, id"  # noqa: S608 - quoted
