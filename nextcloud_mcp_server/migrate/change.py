"""Downgrade and stamp, on request: under the start's lock, in one transaction, after a backup."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.backends.base import Database, LockedDatabase
from nextcloud_mcp_server.errors import WRONG_USAGE, TokenStorageError, counted
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.migrate.classify import is_mistyped, newest_complete, reused_names
from nextcloud_mcp_server.migrate.inspect import (
    Inspection,
    VerifyKeys,
    check_before_lock,
    inspect,
    no_database,
)
from nextcloud_mcp_server.migrate.plan import State, is_steps, no_step
from nextcloud_mcp_server.migrate.startup import progress_to, require_sound
from nextcloud_mcp_server.migrate.typed_revision import unknown_target
from nextcloud_mcp_server.progress import ProgressCallback, Reporter
from nextcloud_mcp_server.schema.history import BASE
from nextcloud_mcp_server.schema.structure import KEYS, gaps
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring
    from nextcloud_mcp_server.migrate.decryption import Decryption


@dataclass(frozen=True, slots=True)
class Change:
    """A finished downgrade or stamp.

    Attributes:
        database: its path; for a server its URL, without a password.
        before: the recorded revision before, or all if there were several; None for none.
        after: the recorded revision now; None if there is none.
        steps: the revisions that were undone, newest first.
        backup: the backup made before; None if there were no rows.
        encrypted: how many secrets of each table were encrypted for released versions.
        deleted: how many rows of each table were deleted, because only the hash of an id is there.
        key: the fingerprint of the key that released versions need for them.
    """

    database: Path | ServerUrl
    before: str | None
    after: str | None
    steps: tuple[str, ...] = ()
    backup: Path | None = None
    encrypted: Mapping[str, int] = field(default_factory=dict)
    deleted: Mapping[str, int] = field(default_factory=dict)
    key: str | None = None


def plan_downgrade(database: Database, revision: str | None = None) -> tuple[Inspection, str]:
    """Return what the database is, and the id (or ``base``) that a downgrade would end at.

    Raises:
        TokenStorageError: as :func:`downgrade_target`; ``bad-input`` if no upgrade could
            follow a downgrade to base.
    """
    inspection = inspect(database)
    target = downgrade_target(inspection, revision)
    if target == BASE:
        _require_way_up(inspection)
    return inspection, target


def preview_downgrade(
    database: Database,
    revision: str | None = None,
    *,
    while_running: bool = False,
    verify: VerifyKeys | None = None,
    keyring: Keyring | None = None,
) -> tuple[Inspection, str, Change]:
    """Return what the database is, the id (or ``base``) of the end, and the change to expect.

    Takes no lock, so that nobody waits while a person decides. The arguments are those of
    :func:`downgrade`, which checks everything again under the lock.

    Raises:
        TokenStorageError: as :func:`downgrade`, if it is known without the lock.
    """
    inspection, target = plan_downgrade(database, revision)
    database.require_own_lock()
    database.require_idle(while_running=while_running)
    database.require_writable()
    require_sound(inspection)
    inspection.verify_keys(verify)
    if (decryption := _decryption(inspection, target, keyring)) is not None:
        decryption.preview()
    return inspection, target, _downgraded(inspection, target, decryption)


def _decryption(inspection: Inspection, target: str, keyring: Keyring | None) -> Decryption | None:
    """Return what decrypts for a downgrade to ``target``; None if that can read all secrets."""
    history = inspection.history
    kept = {} if target == BASE else history.structure(target).tables
    if KEYS in kept or KEYS not in history.structure(str(inspection.recorded)).tables:
        return None
    from nextcloud_mcp_server.migrate.decryption import Decryption  # noqa: PLC0415 - imports cryptography

    return Decryption(inspection.database, lambda: keyring, kept)


def _downgraded(
    inspection: Inspection, target: str, decryption: Decryption | None, backup: Path | None = None
) -> Change:
    recorded = str(inspection.recorded)
    change = Change(
        inspection.database.location,
        recorded,
        None if target == BASE else target,
        inspection.history.undone(recorded, target),
        backup,
    )
    if decryption is None:
        return change
    encrypted, deleted = dict(decryption.encrypted), dict(+decryption.deleted)
    return replace(change, encrypted=encrypted, deleted=deleted, key=decryption.key)


def downgrade(
    database: Database,
    revision: str | None = None,
    *,
    agreed_from: str | None = None,
    while_running: bool = False,
    verify: VerifyKeys | None = None,
    keyring: Keyring | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> Change:
    """Go back to ``revision`` (default: one step), in one transaction, after a backup.

    Args:
        database: the database.
        revision: as :func:`downgrade_target` takes it.
        agreed_from: the revision that the database had when a person agreed to the loss;
            None if nobody was asked.
        while_running: whether to downgrade under a running server.
        verify: verifies the keys on what is stored, before anything is written, and returns
            their fingerprints, for the backup's manifest.
        keyring: the available keys, which decrypt what the older revision cannot read. The first
            one encrypts it for released versions.
        lock_timeout: seconds to wait for the lock.
        progress: receives updates (default: the log).

    Raises:
        TokenStorageError: as :func:`downgrade_target`, and as a start does; ``declined`` if
            the revision is no longer ``agreed_from``; ``in-use`` if a server is running;
            what ``verify`` raises; ``key-missing``, ``wrong-key`` or ``undecryptable`` if a
            secret cannot be decrypted that the older revision cannot read.
    """
    activity = f"downgrading it to {revision or 'the one before'}"
    _check_before_lock(database, lambda seen: downgrade_target(seen, revision), verify)
    with _locked(database, lock_timeout, activity, progress) as (locked, inspection, report):
        database.require_idle(while_running=while_running)
        target = downgrade_target(inspection, revision)
        recorded = str(inspection.recorded)
        if agreed_from not in {None, recorded}:
            raise _changed(database, agreed_from, recorded)
        if target == BASE:
            _require_way_up(inspection)
        keys = inspection.verify_keys(verify)
        # Imports Alembic.
        from nextcloud_mcp_server.migrate import run  # noqa: PLC0415

        decryption = _decryption(inspection, target, keyring)
        backup = run.downgrade(
            inspection, locked, target, decryption=decryption, keys=keys, report=report
        )
        locked.finish()
    return _downgraded(inspection, target, decryption, backup)


def preview_stamp(
    database: Database, revision: str, *, while_running: bool = False
) -> tuple[Inspection, str | None]:
    """Return what the database is, and the revision of its tables if ``revision`` is another.

    Takes no lock, so that nobody waits while a person decides.

    Raises:
        TokenStorageError: as :func:`stamp`, if it is known without the lock.
    """
    inspection = inspect(database)
    if not inspection.exists:
        raise no_database(database)
    _check_stamp(inspection, revision)
    database.require_own_lock()
    database.require_idle(while_running=while_running)
    history, recorded = inspection.history, inspection.recorded
    tables = newest_complete(inspection.snapshot.structure, history)
    same = revision != BASE and history.structure(revision) == history.structure(tables)
    return inspection, None if same or revision == recorded else tables


def stamp(
    database: Database,
    revision: str,
    *,
    while_running: bool = False,
    verify: VerifyKeys | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> Change:
    """Record ``revision`` (or ``base``: none) without running anything, after a backup.

    Also the way out of several version rows that disagree. The arguments are those of
    :func:`downgrade`.

    Raises:
        TokenStorageError: ``inconsistent`` if the schema does not match ``revision``,
            ``unknown-revision`` (also for a file of a newer release), and what an inspection
            finds; ``in-use`` if a server is running and ``while_running`` is false; what
            ``verify`` raises.
    """
    activity = f"stamping it with {revision}"
    _check_before_lock(database, lambda seen: _check_stamp(seen, revision), verify)
    with _locked(database, lock_timeout, activity, progress) as (locked, inspection, report):
        database.require_idle(while_running=while_running)
        _check_stamp(inspection, revision)
        keys = inspection.verify_keys(verify)
        # Imports Alembic.
        from nextcloud_mcp_server.migrate import run  # noqa: PLC0415

        backup = run.stamp(inspection, locked, revision, keys=keys, report=report)
        locked.finish()
    after = None if revision == BASE else revision
    return Change(database.location, inspection.every_recorded, after, backup=backup)


def _check_before_lock(
    database: Database, accept: Callable[[Inspection], object], verify: VerifyKeys | None
) -> None:
    """Raise what can be refused without the lock, which would leave a file."""
    database.check()
    if database.identity() is None:
        raise no_database(database)
    database.require_trusted()

    def accept_writable(inspection: Inspection) -> None:
        accept(inspection)
        database.require_writable()

    check_before_lock(database, accept_writable, verify=verify)


@contextmanager
def _locked(
    database: Database, lock_timeout: float, activity: str, progress: ProgressCallback | None
) -> Iterator[tuple[LockedDatabase, Inspection, Reporter]]:
    """Lock and inspect a database that is about to be changed on request."""
    with database.lock(lock_timeout) as locked:
        # A file that cannot even be read is refused as such.
        inspection = Inspection.of(database, locked.inspect(samples=True))
        locked.require_writable()
        with progress_to(database, locked, activity, progress) as report:
            report("checking its pages")
            if not inspection.refusal:
                require_sound(inspection)
            yield locked, inspection, report


def downgrade_target(inspection: Inspection, revision: str | None) -> str:
    """Return the id (or ``base``) that a downgrade ends at.

    Args:
        inspection: of the database.
        revision: an id, ``base``, ``-N`` (N steps), or None for one step.

    Raises:
        TokenStorageError: ``bad-path`` without a database, the state's code if a start would
            refuse, ``unknown-revision`` or ``bad-input`` for a revision that is not below.
    """
    database, history = inspection.database, inspection.history
    target = "-1" if revision is None else str(revision)
    if target in {"head", "heads"} or is_steps(target, "+"):
        raise _is_upgrade(target, database)
    if not inspection.exists:
        raise no_database(database)
    inspection.accepted()
    recorded = inspection.recorded
    if recorded is None:
        raise TokenStorageError(
            f"{database} has no recorded revision, so there is nothing to go back from.",
            code="bad-input",
            remedy=f"Bring it to head first: nextcloud-mcp-server db upgrade {database.option}",
        )
    below = (BASE, *history.revisions[: history.revisions.index(recorded)])
    if is_steps(target, "-"):
        target = _steps_below(database, recorded, below, int(target[1:]))
    if target != BASE and target not in history:
        raise unknown_target(target, history, database)
    if target == recorded:
        raise TokenStorageError(
            f"{database} is at revision {recorded} already: a downgrade has nothing to do.",
            code="bad-input",
            remedy=f"To go back one revision: nextcloud-mcp-server db downgrade {database.option}",
        )
    if target not in below:
        raise TokenStorageError(
            f"{database} is at revision {recorded}, which is not above {target}.",
            code="bad-input",
            remedy="To go up, use: nextcloud-mcp-server db upgrade "
            f"--revision {target} {database.option}",
        )
    _require_names(inspection, target)
    return target


def _is_upgrade(target: str, database: Database) -> TokenStorageError:
    if is_steps(target, "+") and not int(target):
        return no_step(target, database)
    return TokenStorageError(
        f"{target} is a step up, and a downgrade only goes back.",
        code="bad-input",
        remedy=f"To go up, use: nextcloud-mcp-server db upgrade {target} {database.option}",
        exit_status=WRONG_USAGE,
    )


def _steps_below(database: Database, recorded: str, below: tuple[str, ...], steps: int) -> str:
    if steps == 0:
        return recorded
    if steps > len(below):
        raise TokenStorageError(
            f"{database} is at revision {recorded}, and only "
            f"{counted(len(below), 'revision')} can be undone.",
            code="bad-input",
            remedy="To undo every revision, and lose every row: "
            f"nextcloud-mcp-server db downgrade --revision {BASE} {database.option}",
        )
    return below[-steps]


def _require_way_up(inspection: Inspection) -> None:
    """Refuse a downgrade to base that no upgrade could follow."""
    structure, known = inspection.snapshot.structure, inspection.history.shapes.keys()
    if strangers := sorted(structure.strangers - known):
        raise TokenStorageError(
            f"{inspection.database} also holds {', '.join(strangers)}: at base nothing would "
            "distinguish it from another application's database, and no start would use it.",
            code="bad-input",
            remedy="Move them out first, or begin with a new file instead of going to base.",
        )


def _require_names(inspection: Inspection, target: str) -> None:
    """Refuse a target for which somebody else's table or view has the name of one of ours."""
    history, structure = inspection.history, inspection.snapshot.structure
    reused = reused_names(structure, history, history.head)
    if not reused:
        return
    first = 0 if target == BASE else history.revisions.index(target)
    for revision in reversed(history.revisions[first:]):
        if taken := sorted(reused & history.structure(revision).tables.keys()):
            raise TokenStorageError(
                f"{inspection.database} has {', '.join(taken)}, which is not of this program, and "
                f"revision {revision} needs that name; nothing was changed.",
                code="bad-input",
                remedy="Rename it if it is a table; if it is a view, drop it and create it again "
                "under another name. Then run the command again.",
            )


def _changed(database: Database, agreed: str | None, recorded: str) -> TokenStorageError:
    return TokenStorageError(
        f"{database} was at revision {agreed} when the loss was agreed to, and another process "
        f"has taken it to {recorded} since then; nothing was changed.",
        code="declined",
        remedy="Stop every server, then run the command again.",
    )


def _check_stamp(inspection: Inspection, revision: str) -> None:
    database, history = inspection.database, inspection.history
    structure, state = inspection.snapshot.structure, inspection.finding.state
    if state is State.NEW:
        raise TokenStorageError(
            f"There is no table in {database} to record a revision of.",
            code="bad-input",
            remedy=f"Create it: nextcloud-mcp-server db upgrade {database.option}",
        )
    mistyped = is_mistyped(inspection.snapshot, history)
    if state is not State.AMBIGUOUS_VERSION and not (state is State.UNKNOWN_REVISION and mistyped):
        inspection.accepted()
    if revision == BASE:
        return
    if revision not in history:
        raise unknown_target(revision, history, database)
    # An upgrade from here does not miss what a later revision drops.
    wanted = history.structure(revision).without(history.dropped_before(history.head))
    lacks = gaps(structure, wanted)
    reused = reused_names(structure, history, history.head)
    _require_names(inspection, revision)
    dropped = (history.dropped_before(revision) & structure.tables.keys()) - reused
    # A start adds an index.
    lacks = lacks._replace(indexes=())
    if not lacks and not dropped:
        return
    detail = f"lacks {lacks}" if lacks else f"still has {', '.join(sorted(dropped))}"
    raise TokenStorageError(
        f"{database} {detail}, so it is not at revision {revision}.",
        code="inconsistent",
        remedy="Stamp the revision that it has, or see which that is: "
        f"nextcloud-mcp-server db current {database.option}",
    )
