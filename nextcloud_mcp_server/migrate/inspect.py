"""Inspect a database: what it is and what a start would do. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nextcloud_mcp_server.backends.base import SAMPLE_SIZE, Database, LockedDatabase, Snapshot
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import plan as plans
from nextcloud_mcp_server.migrate.classify import (
    TEMPORARY,
    classify,
    every_recorded,
    is_released,
    used_tables,
)
from nextcloud_mcp_server.migrate.plan import Action, Finding, Plan
from nextcloud_mcp_server.schema.history import History, load_history
from nextcloud_mcp_server.schema.structure import ENCRYPTED

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.keys import RegisteredKey
    from nextcloud_mcp_server.crypto.verification import Samples

#: Verifies the keys on samples of the encrypted values and on the registered keys; returns their
#: fingerprints.
VerifyKeys = Callable[["Samples", Sequence["RegisteredKey"]], Sequence[str] | None]


class Inspection(NamedTuple):
    """The result of inspecting a database, with its pending work.

    Attributes:
        database: the database.
        snapshot: what was read from it.
        history: the revisions of this program.
        finding: its state, and why.
        plan: what a start would do; None if it would refuse.
        refusal: the error that a start would raise; None if it would not.
    """

    database: Database
    snapshot: Snapshot
    history: History
    finding: Finding
    plan: Plan | None
    refusal: TokenStorageError | None

    @classmethod
    def of(cls, database: Database, snapshot: Snapshot, target: str | None = None) -> Inspection:
        """Classify a snapshot and plan what a start to ``target`` (default: head) would do.

        Raises:
            TokenStorageError: ``unknown-revision`` or ``bad-input`` for a target that no
                upgrade reaches.
        """
        history = known_history(database)
        finding = classify(snapshot, history)
        if finding.refused:
            refusal = plans.refusal(finding, history, database)
            return cls(database, snapshot, history, finding, None, refusal)
        plan = plans.plan(finding, history, database, target)
        return cls(database, snapshot, history, finding, plan, None)

    @property
    def exists(self) -> bool:
        """Whether there is a database."""
        return self.snapshot.exists

    @property
    def recorded(self) -> str | None:
        """The revision in the version row; None if there is not exactly one."""
        return self.finding.recorded

    @property
    def every_recorded(self) -> str | None:
        """The revision in the version row, or all if there are several; None if there is none."""
        return self.recorded or every_recorded(self.snapshot) or None

    @property
    def ready(self) -> bool:
        """Whether a start would change nothing in the schema."""
        return self.plan is not None and self.plan.action is Action.NOTHING

    @property
    def pending(self) -> tuple[str, ...]:
        """The revisions that a start would run."""
        return self.plan.steps if self.plan else ()

    def accepted(self) -> Plan:
        """Return the plan.

        Raises:
            TokenStorageError: the state's own code if a start would refuse.
        """
        if self.plan is None:
            raise self.refusal or AssertionError("a database without a plan is refused")
        return self.plan

    def is_settled(self, locked: LockedDatabase) -> bool:
        """Return whether nothing is to be done, or nothing may be done in this place."""
        if self.accepted().migrates:
            return False
        if locked.unlocked or locked.read_only:
            return True
        return locked.is_finished(self.snapshot)

    def require_usable(self) -> None:
        """Fail if somebody has changed a table so that the store cannot use it.

        Names and columns were compared already. If nothing in the database can differ from
        what the revisions make, this opens nothing.

        Raises:
            TokenStorageError: ``inconsistent``, with the tables and the reasons.
        """
        there, base = self.snapshot.structure, self.finding.base
        if base is None or is_released(there, self.history, base):
            return
        if found := self.database.unusable(used_tables(self.history, base)):
            raise plans.unusable(found, self.database)

    def verify_keys(self, verify: VerifyKeys | None) -> Sequence[str] | None:
        """Verify the available keys on what is stored; return their fingerprints.

        Args:
            verify: does it; None if no key is available.

        Raises:
            TokenStorageError: what ``verify`` raises.
        """
        if verify is None:
            return None
        return verify(self.samples, self.snapshot.keys)

    def samples(self, limit: int | None) -> Iterable[bytes]:
        """Return encrypted values, at most ``limit`` of each column (None: all of them)."""
        # Until they are renamed back, these tables hold their values under another name.
        renamed, first = self.finding.adopted, self.snapshot.samples
        if limit == SAMPLE_SIZE and first is not None and not renamed:
            return first
        columns = [(TEMPORARY + t if t in renamed else t, column) for t, column in ENCRYPTED]
        return self.database.samples(columns, limit)


def known_history(database: Database | None = None) -> History:
    """Return the history with every structure; only a new migration file needs Alembic.

    Args:
        database: a database of the engine (default: SQLite).
    """
    history = load_history() if database is None else database.history
    if history.unknown_structures:
        from nextcloud_mcp_server.migrate import structures  # noqa: PLC0415 - imports Alembic

        return structures.complete(history)
    return history


def inspect(database: Database, target: str | None = None, *, samples: bool = False) -> Inspection:
    """Inspect ``database`` without a lock; a crashed writer's journal is not rolled back.

    Beside an SQLite file in WAL mode that is not open, SQLite leaves a ``-shm`` and an empty
    ``-wal``, as for every reader. ``samples``: read the registered keys and some encrypted values
    too.

    Raises:
        TokenStorageError: the place cannot hold a database or cannot be read.
    """
    database.check()
    return Inspection.of(database, database.inspect(samples=samples), target)


def check_before_lock(
    database: Database,
    accept: Callable[[Inspection], object],
    *,
    target: str | None = None,
    verify: VerifyKeys | None = None,
) -> None:
    """Raise what can be refused without the lock, if the lock would leave a file or a folder.

    Nothing is decided here: under the lock, all of it is asked again.

    Args:
        database: the database; it need not exist.
        accept: raises the error for a database that is not accepted.
        target: the revision to end at.
        verify: verifies the keys, if there are encrypted values.
    """
    if not database.locking_creates_files():
        return
    snapshot = database.inspect(samples=True)
    inspection = Inspection.of(database, snapshot, target)
    accept(inspection)
    if snapshot.samples or snapshot.keys:
        inspection.verify_keys(verify)


def no_database(database: Database) -> TokenStorageError:
    """Return the error for a change of a database that does not exist."""
    refusal = Inspection.of(database, database.inspect()).refusal
    return refusal or TokenStorageError(
        f"There is no database at {database}.",
        code="bad-path",
        remedy="Give the path of the token database with -d, or create it: "
        f"nextcloud-mcp-server db upgrade {database.option}",
    )
