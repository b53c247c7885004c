"""Say what a database is, without a lock, without a change, and without a heavy import."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.inspect import (
    SAMPLED,
    WAL,
    ciphertexts,
    columns_there,
    look_without_recovery,
)
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files, mounts, permissions
from nextcloud_mcp_server.migrate.classify import TEMPORARY, classify
from nextcloud_mcp_server.migrate.plan import Action, Finding, Plan, plan, refusal
from nextcloud_mcp_server.schema.history import History, load_history
from nextcloud_mcp_server.schema.structure import ENCRYPTED

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock as Held
    from nextcloud_mcp_server.crypto.keyfile import Samples


class Report(NamedTuple):
    """What a database is, as a look finds it.

    Attributes:
        database: the database file.
        exists: whether there is a file.
        finding: its state, and why.
        head: the newest revision of this program.
        todo: what a start would do; None where it would refuse.
        journal_mode: SQLite's journal mode; empty without a file.
        refusal: the error that a start would raise; None where it would not.
    """

    database: Path
    exists: bool
    finding: Finding
    head: str
    todo: Plan | None
    journal_mode: str
    refusal: TokenStorageError | None

    @property
    def ready(self) -> bool:
        """Whether a start would find nothing to do to the schema."""
        return self.todo is not None and self.todo.action is Action.NOTHING

    @property
    def pending(self) -> tuple[str, ...]:
        """The revisions that a start would run."""
        return self.todo.steps if self.todo else ()


def known_history() -> History:
    """The history with every structure, which needs Alembic only in a developer's checkout."""
    history = load_history()
    if history.unknown_structures:
        from nextcloud_mcp_server.migrate import structures  # noqa: PLC0415 - imports Alembic

        return structures.complete(history)
    return history


def examine(database: Path) -> Report:
    """Say what ``database`` is. Nothing of it changes: no lock, no journal rolled back.

    Beside one in WAL mode that nobody has open, SQLite leaves a ``-shm`` and an empty ``-wal``, as
    it does for every reader.

    Raises:
        TokenStorageError: where the path cannot hold a database or cannot be read.
    """
    files.check_path(database)
    database = files.follow(database)
    history = known_history()
    seen = look_without_recovery(database, history.known)
    finding = classify(seen, history)
    return Report(
        database=database,
        exists=database.exists(),
        finding=finding,
        head=history.head,
        todo=None if finding.refused else plan(finding, history, database),
        journal_mode=seen.journal_mode,
        refusal=refusal(finding, history, database) if finding.refused else None,
    )


def no_database(database: Path) -> TokenStorageError:
    """The error for a change that was asked for of a database that is not there."""
    return TokenStorageError(
        f"There is no database at {database}.",
        code="bad-path",
        remedy="Give the path of the token database with -d, or create it: "
        f"nextcloud-mcp-server db upgrade -d {for_shell(database)}",
    )


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
    seen: Snapshot
    finding: Finding
    todo: Plan
    closed: str

    @classmethod
    def of(cls, seen: Snapshot, database: Path, history: History, target: str | None) -> Found:
        """Judge what was seen.

        Raises:
            TokenStorageError: as :func:`~nextcloud_mcp_server.migrate.plan.plan`.
        """
        finding = classify(seen, history)
        todo = plan(finding, history, database, target)
        return cls(database, seen, finding, todo, permissions.unwritable(database))

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
    seen: Snapshot,
    adopted: Collection[str],
) -> Sequence[str] | None:
    """The fingerprints of the keys at hand, proven on what was seen; None without ``unlock``.

    Args:
        unlock: proves them.
        database: the file.
        seen: what the look has seen.
        adopted: tables that are about to be renamed back, which hold their values under
            another name yet.

    Raises:
        TokenStorageError: what ``unlock`` raises.
    """
    if unlock is None:
        return None
    named = [(TEMPORARY + t if t in adopted else t, c) for t, c in ENCRYPTED]
    columns = columns_there(seen.structure, named)

    def samples(limit: int | None) -> Iterable[bytes]:
        if limit == SAMPLED and seen.samples is not None and not adopted:
            return seen.samples
        return ciphertexts(database, columns, limit) if columns else ()

    return unlock(samples)
