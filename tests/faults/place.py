"""Where a database is said to be, who looks for it, and what lies there at first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nextcloud_mcp_server.migrations import upgrade_database
from tests.support import shapes


@dataclass(frozen=True)
class Place:
    """Where a database is said to be, and who looks for it.

    Attributes:
        path: what is typed.
        refused: whether nobody may serve from it, upgrade it or read a revision from it.
        user: who looks.
        clock: seconds that the clock is ahead.
        environ: further variables.
        codes: of the errors that may be told there; empty where it may be any.
    """

    path: Path
    refused: bool = False
    user: int = 0
    clock: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)
    codes: tuple[str, ...] = ()


#: Makes a place in an empty folder, and clears away what a folder's removal would not.
Maker = Callable[[Path], Iterator[Place]]


class Models:
    """A database at head and one behind, made once and copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head, self.old = folder / "head.db", folder / "old.db"
        shapes.at("010").write(self.head)
        upgrade_database(self.head)
        shapes.at("005", "raw").write(self.old)

    def put(self, kind: str, folder: Path) -> Path:
        """A copy, called ``tokens.db``, of the one that ``kind`` names."""
        path = folder / "tokens.db"
        shutil.copyfile(self.folder / f"{kind}.db", path)
        path.chmod(0o600)
        return path
