"""What a look under the lock has found, and whether anything is owed to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nextcloud_mcp_server.backends.sqlite import files, mounts
from nextcloud_mcp_server.backends.sqlite.guard import Held
from nextcloud_mcp_server.backends.sqlite.look import SAMPLED, ciphertexts, columns_there
from nextcloud_mcp_server.backends.sqlite.session import WAL
from nextcloud_mcp_server.classify import TEMPORARY, classify
from nextcloud_mcp_server.history import History
from nextcloud_mcp_server.state import Finding, Observation, Plan, plan
from nextcloud_mcp_server.structure import ENCRYPTED

if TYPE_CHECKING:
    from nextcloud_mcp_server.amends import Rename
    from nextcloud_mcp_server.keyfile import Samples

#: Proves the keys on samples of what is in a database; answers their fingerprints.
Unlock = Callable[["Samples"], Sequence[str] | None]


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
        return (self.seen.journal_mode == WAL) is not mounts.on_network(self.database)


def prove(
    unlock: Unlock | None,
    database: Path,
    seen: Observation,
    adopted: Collection[str],
    renames: Collection[Rename] = (),
) -> Sequence[str] | None:
    """The fingerprints of the keys at hand, proven on what was seen; None without ``unlock``.

    Args:
        unlock: proves them.
        database: the file.
        seen: what the look has seen.
        adopted: tables that are about to be renamed back, which hold their values under
            another name yet.
        renames: columns that are about to be renamed back.

    Raises:
        TokenStorageError: what ``unlock`` raises.
    """
    if unlock is None:
        return None
    misnamed = {(rename.table, rename.wanted): rename.column for rename in renames}
    named = [(TEMPORARY + t if t in adopted else t, misnamed.get((t, c), c)) for t, c in ENCRYPTED]
    columns = columns_there(seen.structure, named)

    def samples(limit: int | None) -> Iterable[bytes]:
        if limit == SAMPLED and seen.samples is not None and not (adopted or renames):
            return seen.samples
        return ciphertexts(database, columns, limit) if columns else ()

    return unlock(samples)
