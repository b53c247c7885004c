"""What a look under the lock has found, and whether anything is owed to it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.backends.sqlite.guard import Held
from nextcloud_mcp_server.backends.sqlite.session import WAL
from nextcloud_mcp_server.classify import classify
from nextcloud_mcp_server.history import History
from nextcloud_mcp_server.state import Finding, Observation, Plan, plan


class Found(NamedTuple):
    """One database: what was seen, what that means, and what is owed to it.

    Attributes:
        database: the file.
        seen: what the look has seen.
        finding: the state that this is.
        todo: what a start does about it.
        closed: why it cannot be written; empty where it can be.
    """

    database: Path
    seen: Observation
    finding: Finding
    todo: Plan
    closed: str

    @classmethod
    def of(cls, seen: Observation, database: Path, history: History, target: str | None) -> Found:
        """Judge what was seen.

        Raises:
            TokenStorageError: as :func:`~nextcloud_mcp_server.state.plan`.
        """
        finding = classify(seen, history)
        todo = plan(finding, history, database, target)
        return cls(database, seen, finding, todo, files.unwritable(database))

    def is_ready(self, held: Held) -> bool:
        """Whether there is nothing to do, or nothing that this place allows to be done."""
        if self.todo.migrates:
            return False
        if held.problem or self.closed:
            return True
        # On a network file system WAL is what has to go, everywhere else what has to come.
        return (self.seen.journal_mode == WAL) is not files.on_network(self.database)
