"""The path that every start travels: lock, look, plan, back up, migrate, and only then open.

:func:`prepare` is the whole of it on one screen. It blocks, and runs in one worker
thread: the lock is taken and given back in the thread that does the work, so no
cancelled coroutine can give it up while a migration is still running.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.database import require_lock, use_wal
from nextcloud_mcp_server.backends.sqlite.errors import named
from nextcloud_mcp_server.backends.sqlite.inspect import HotJournalError, check_pages, look, recover
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock as Held
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.migrate.inspect import Found, Unlock, known_history, prove
from nextcloud_mcp_server.migrate.plan import Action, Finding, Plan, State, refusal
from nextcloud_mcp_server.schema.history import History, load_history
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT

if TYPE_CHECKING:
    from nextcloud_mcp_server.progress import ProgressCallback, Reporter


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a start found and did.

    Attributes:
        database: the database file.
        state: what it was before.
        done: the plan that was carried out.
        backup: the backup made before; None where there was nothing to keep.
        journal_mode: SQLite's journal mode now.
        seconds: how long it took, waiting included.
        warning: why nothing more could be done; empty when all is well.
        read_only: why it can only be read; empty where it can be written.
    """

    database: Path
    state: State
    done: Plan
    backup: Path | None = None
    journal_mode: str = ""
    seconds: float = 0.0
    warning: str = ""
    read_only: str = ""

    @property
    def action(self) -> Action:
        """What was done."""
        return self.done.action

    @property
    def before(self) -> str | None:
        """The revision that the database counted as; None for a new one."""
        return self.done.start

    @property
    def after(self) -> str:
        """The revision that it has now."""
        return self.done.target

    @property
    def stamped(self) -> bool:
        """Whether ``before`` had to be written into the version table."""
        return self.done.stamp is not None

    @property
    def steps(self) -> tuple[str, ...]:
        """The revisions that ran, oldest first."""
        return self.done.steps

    @property
    def mended(self) -> tuple[str, ...]:
        """What was mended on the way, in words."""
        return self.done.mends


def never() -> bool:
    """The default answer to "was this cancelled?"."""
    return False


def _nothing(_: Path) -> None:
    """Leave it at that."""


def prepare(
    database: Path,
    *,
    target: str | None = None,
    unlock: Unlock | None = None,
    then: Callable[[Path], object] = _nothing,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    cancelled: Callable[[], bool] = never,
    listener: ProgressCallback | None = None,
) -> Outcome:
    """Bring ``database`` to ``target`` (default: head), whatever it is; or refuse, unchanged.

    Args:
        database: the file; it need not be there yet.
        target: the revision to end at.
        unlock: proves the keys on what is in the database, before anything is written, and
            answers their fingerprints.
        then: called with the file when it is ready, while the lock is still held; not where
            there is no lock.
        lock_timeout: seconds to wait for the lock.
        cancelled: asked while waiting for the lock; True ends the wait.
        listener: hears how far it is, where there is something to do (default: the log).

    Raises:
        TokenStorageError: with the code of what is wrong. The file is as it was, but for
            a crashed writer's journal, which SQLite may have rolled back.
    """
    begun = time.monotonic()
    files.check_path(database)
    database = files.follow(database)
    files.make_folder(database)
    _warn_of_names(database)
    history = known_history()
    # Many may look at once, and most find nothing to do; whoever finds more looks again, alone.
    with guard(database, lock_timeout, cancelled, shared=True) as held:
        found = _among_others(database, history, target, held)
        if found is not None and found.is_ready(held):
            return _finished(_ready(found, held, unlock, then), begun, held)
    with guard(database, lock_timeout, cancelled) as held:
        found = Found.of(look_under_lock(database, held), database, history, target)
        if found.is_ready(held):
            return _finished(_ready(found, held, unlock, then), begun, held)
        if found.closed:
            raise _must_be_written(database, found.closed, held)
        require_lock(held, database)
        todo = found.todo
        with _telling(database, listener, held, todo) as say:
            say("checking its pages")
            _check(database, found.seen, history)
            keys = prove(unlock, found.database, found.seen, found.todo.adopted)
            made = None
            if todo.migrates:
                made = _migrate(database, history, todo, found.seen, keys=keys, say=say)
            mode = use_wal(database)
        then(database)
    return _finished(Outcome(database, found.finding.state, todo, made, mode), begun, held)


def _warn_of_names(database: Path) -> None:
    if (names := files.names_of(database)) > 1:
        logger.warning(
            "%s has %d names (hard links), each with a lock and a journal of its own: "
            "use one of them, and remove the others",
            database,
            names,
        )


@contextmanager
def _telling(
    database: Path, listener: ProgressCallback | None, held: Held, todo: Plan
) -> Iterator[Reporter]:
    """Tell the listener, the log or those who wait for the lock how far it is."""
    # What most starts need not say need not be imported either.
    from nextcloud_mcp_server.progress import reporting, to_log, to_waiters  # noqa: PLC0415

    held.announce(_doing(todo))
    with reporting(listener or to_log(database), to_waiters(held.announce, _doing(todo))) as say:
        yield say


def _among_others(database: Path, history: History, target: str | None, held: Held) -> Found | None:
    """What a look finds that shares the lock; None where it takes one alone to say so."""
    if held.problem:
        return None
    try:
        seen = look(database, history.known, sampling=True)
    except HotJournalError:
        return None
    # Where nothing is sealed yet a key may have to be made, by one start only.
    if not seen.samples:
        return None
    try:
        return Found.of(seen, database, history, target)
    except TokenStorageError:
        return None


def _ready(
    found: Found, held: Held, unlock: Unlock | None, then: Callable[[Path], object]
) -> Outcome:
    """Prove the keys of a database that nothing is owed to, and hand it over."""
    prove(unlock, found.database, found.seen, found.todo.adopted)
    if not held.problem:
        then(found.database)
    return Outcome(
        found.database,
        found.finding.state,
        found.todo,
        journal_mode=found.seen.journal_mode,
        read_only=found.closed,
    )


def look_under_lock(database: Path, held: Held) -> Snapshot:
    """What lies at ``database``, after a crashed writer's journal was rolled back."""
    try:
        return look(database, load_history().known, sampling=True)
    except HotJournalError:
        require_lock(held, database)
        logger.warning("%s was left in the middle of a write: rolling it back", database)
        recover(database)
    try:
        return look(database, load_history().known, sampling=True)
    except HotJournalError as error:
        raise named(error.__cause__ or error, database) or error from error


def _check(database: Path, seen: Snapshot, history: History) -> None:
    """Refuse to touch a database with damaged pages."""
    if seen.journal_mode and (damage := check_pages(database)):
        raise refusal(Finding(State.CORRUPT, reason=damage), history, database)


def _migrate(
    database: Path,
    history: History,
    todo: Plan,
    seen: Snapshot,
    *,
    keys: Sequence[str] | None,
    say: Reporter,
) -> Path | None:
    # Alembic and SQLAlchemy are imported only where there is something to migrate.
    from nextcloud_mcp_server.migrate.run import migrate  # noqa: PLC0415

    logger.info("%s: %s", database, _doing(todo))
    files.create_private(database)
    return migrate(database, history, todo, seen.structure, keys=keys, say=say)


def _doing(todo: Plan) -> str:
    if todo.action is Action.CREATE:
        return f"creating it at revision {todo.target}"
    if todo.action is Action.NOTHING:
        return "switching its journal mode"
    if todo.action is Action.STAMP:
        upgrading = f" and upgrading it to {todo.target}" if todo.steps else ""
        return f"stamping it with {todo.stamp}{upgrading}"
    if todo.start == todo.target:
        return f"mending it at revision {todo.target}"
    return f"upgrading it from revision {todo.start} to {todo.target}"


def _must_be_written(database: Path, closed: str, held: Held) -> TokenStorageError:
    said = f" ({held.detail})" if held.detail else ""
    return TokenStorageError(
        f"{database} has to be migrated, and {closed}{said}.",
        code="read-only",
        remedy="Give this user write access to the file and to its folder, then try again.",
    )


def _finished(outcome: Outcome, begun: float, held: Held) -> Outcome:
    said = []
    if outcome.read_only:
        said.append(f"it is open for reading only, because {outcome.read_only}")
    if held.problem:
        said.append(f"it could not be locked ({held.detail})")
    warning = ""
    if said:
        warning = f"{outcome.database} is at head, so it is used: {'; '.join(said)}"
        logger.warning("%s", warning)
    return replace(outcome, seconds=time.monotonic() - begun, warning=warning)
