"""Compare two tables by the number and the hash of their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

#: The hashes of rows are added up to this number.
_SIZE: Final = 1 << 256


class Checksum:
    """The number of rows and the sum of their hashes.

    A sum has no order, because the engines do not sort alike: by the text of a database in UTF-16,
    or by the rules of a language. Every row has another primary key, so no two hashes are equal.

    Attributes:
        rows: the number of rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add canonical rows."""
        for row in rows:
            digest = hashlib.sha256(tuple.__repr__(row).encode()).digest()
            self._sum += int.from_bytes(digest, "big")
            self.rows += 1
        self._sum %= _SIZE

    def __eq__(self, other: object) -> bool:
        """Compare the numbers and the sums."""
        return isinstance(other, Checksum) and (self.rows, self._sum) == (other.rows, other._sum)

    def __hash__(self) -> int:
        """Hash both."""
        return hash((self.rows, self._sum))
