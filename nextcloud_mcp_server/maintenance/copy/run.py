"""Copy the rows of one database into another: checked, compared, and in one transaction.

The source is read in one transaction, twice: to check every value, and to send it. The target
gets all rows in one transaction, which is committed only if every table has the same rows there.
A copy that is killed leaves a target without rows, and is run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from nextcloud_mcp_server.backends.base import Database, LockedDatabase, Transaction
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.keyfile import available_keyring, key_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.verification import verified_keyring
from nextcloud_mcp_server.errors import WRONG_USAGE, TokenStorageError, counted, for_shell
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.copy import engines, plan
from nextcloud_mcp_server.maintenance.copy.compare import Checksum
from nextcloud_mcp_server.maintenance.copy.engines import Rows, Source, Target
from nextcloud_mcp_server.maintenance.copy.plan import Left
from nextcloud_mcp_server.maintenance.copy.values import Part, Problem
from nextcloud_mcp_server.maintenance.keys.values import is_id, values_of
from nextcloud_mcp_server.migrate import journal
from nextcloud_mcp_server.migrate.at_head import require_at_head
from nextcloud_mcp_server.migrate.inspect import Inspection, inspect, no_database
from nextcloud_mcp_server.migrate.startup import prepare, progress_to
from nextcloud_mcp_server.progress import ProgressCallback, Reporter, reporting, to_log
from nextcloud_mcp_server.schema.secrets import hiding, secrets_of
from nextcloud_mcp_server.schema.structure import ENCRYPTED, KEYS
from nextcloud_mcp_server.settings import Settings

#: The most problems that are kept of one copy; all are counted.
_KEPT: Final = 100

#: The reason of a secret that is not opened, which alone can be copied nevertheless.
_UNOPENED: Final = "cannot be decrypted: {}"

#: The reason of a value that must be unique.
_REPEATED: Final = "is in another row, too"


class Preview(NamedTuple):
    """What would be copied.

    Attributes:
        rows: the rows of each table.
        left: what stays behind.
    """

    rows: Mapping[str, int]
    left: Sequence[Left]


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied.

    Attributes:
        rows: the rows of each table.
        secrets: how many secrets were decrypted; None without keys.
        left: what stays behind.
        seconds: the duration.
    """

    rows: Mapping[str, int]
    secrets: int | None
    left: Sequence[Left]
    seconds: float


@dataclass(frozen=True, slots=True)
class Problems:
    """The values that cannot be carried over.

    Attributes:
        first: the first of them.
        number: how many there are.
        unopened: how many of them are secrets that are not opened.
    """

    first: Sequence[Problem]
    number: int
    unopened: int


class Copy:
    """A copy from one database into another.

    Args:
        source: the settings of the database to read, with the keys.
        target: those of the database to fill, which is new, or has no rows.
        without_keys: copy the secrets without decrypting them.
        while_running: copy beside a running server: what it stores meanwhile is lost.

    Raises:
        TokenStorageError: the places cannot be databases, or are the same.
    """

    def __init__(
        self,
        source: Settings,
        target: Settings,
        *,
        without_keys: bool = False,
        while_running: bool = False,
    ) -> None:
        self.source: Final = connect(source.database)
        self.target: Final = connect(target.database)
        if self.source.location == self.target.location:
            raise TokenStorageError(
                f"{self.source} cannot be copied to itself.",
                code="bad-input",
                remedy="Give another database with --to.",
                exit_status=WRONG_USAGE,
            )
        self._settings = (source, target)
        self._without_keys = without_keys
        self._while_running = while_running
        self._parts = plan.parts(self.source.history, self.target.history)

    @property
    def command(self) -> str:
        """The arguments that make this copy, without the password of a URL that was typed."""
        places = f"--from {_typed(self.source)} --to {_typed(self.target)}"
        flags = " --without-keys" * self._without_keys + " --while-running" * self._while_running
        return f"db copy {places}{flags}"

    @property
    def cannot_know_servers(self) -> bool:
        """Whether a server may be running on the source without a trace here."""
        return isinstance(self.source.location, ServerUrl)

    @property
    def key_file(self) -> Path | None:
        """The key file beside the source, if it has the only key; the target does not get it."""
        settings, place = self._settings[0], self.source.location
        if settings.keys or settings.key_file or isinstance(place, ServerUrl):
            return None
        return path if (path := key_path(place)).exists() else None

    def preview(self) -> Preview:
        """Return what would be copied. Changes nothing.

        Raises:
            TokenStorageError: as :meth:`run`, for what is seen without reading every row.
        """
        self._check_source()
        self._check_target()
        self._keyring()
        with engines.reading(self.source) as rows:
            counts = {part.table: rows.count(part.table) or 0 for part in self._parts}
            return Preview(counts, self._left(rows))

    def run(
        self,
        problems: Callable[[Problems], object] = lambda _: None,
        progress: ProgressCallback | None = None,
    ) -> Copied:
        """Copy all rows, or fail; the target has no rows then.

        Args:
            problems: receives the values that cannot be carried over, before the error.
            progress: receives updates (default: the log).

        Raises:
            TokenStorageError: ``upgrade-pending`` or ``in-use`` for the source; ``conflict`` for
                a target with rows; ``key-missing``, ``wrong-key`` or ``undecryptable``;
                ``unreadable`` for values that cannot be carried over; ``ignored`` if the target
                does not have the rows that it was sent; what opening either raises.
        """
        begun = time.monotonic()
        self._check_source()
        self._check_target()
        keyring = self._keyring()
        with engines.reading(self.source) as rows:
            with reporting(progress or to_log(self.source)) as report:
                checked = _Check(self, rows, keyring, report)
                sums = checked.run()
            if checked.problems.number:
                problems(checked.problems)
                raise self._unfit(checked.problems)
            self._fill(rows, sums, begun, progress)
            left = self._left(rows)
        counts = {table: found.rows for table, found in sums.items()}
        secrets = None if keyring is None else checked.secrets
        return Copied(counts, secrets, left, time.monotonic() - begun)

    @property
    def parts(self) -> Sequence[Part]:
        """The tables that are copied."""
        return self._parts

    def _check_source(self) -> None:
        source = self.source
        source.check()
        source.require_trusted()
        inspection = inspect(source)
        if not inspection.exists:
            raise no_database(source)
        require_at_head(inspection)
        inspection.require_usable()
        source.require_idle(while_running=self._while_running)

    def _check_target(self) -> None:
        target = self.target
        target.check()
        target.require_trusted()
        inspection = inspect(target)
        inspection.accepted()
        target.require_idle(while_running=self._while_running)
        own = self._own_tables(inspection)
        if own:
            with engines.reading(target) as rows:
                self._require_empty({name: rows.count(name) or 0 for name in own})

    def _own_tables(self, inspection: Inspection) -> list[str]:
        known = self.target.history.shapes.keys() - plan.OWN_ROWS
        return sorted(known & inspection.snapshot.structure.tables.keys())

    def _require_empty(self, rows: Mapping[str, int]) -> None:
        if filled := {name: number for name, number in rows.items() if number}:
            named = ", ".join(f"{counted(number, 'row')} in {t}" for t, number in filled.items())
            raise TokenStorageError(
                f"{self.target} is not empty ({named}); nothing was copied.",
                code="conflict",
                remedy="Give --to a new file, or a schema of a server without these tables.",
            )

    def _keyring(self) -> Keyring | None:
        """Return the keys of the secrets; None without keys, or if there is no secret."""
        if self._without_keys:
            return None

        def samples(limit: int | None) -> Iterator[bytes]:
            yield from self.source.samples(ENCRYPTED, limit)

        known = self.source.inspect(samples=True).keys
        if not known and next(samples(1), None) is None:
            return None
        found = (available_keyring(one) for one in self._settings)
        keyring = next((one for one in found if one is not None), None)
        if keyring is None:
            raise TokenStorageError(
                f"{self.source} holds encrypted values, and no key was given to prove them with.",
                code="key-missing",
                remedy="Set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE to the key that they "
                "were written with; or copy them unproven with --without-keys.",
            )
        return verified_keyring(keyring, samples, self.source.location, known)

    def _unfit(self, found: Problems) -> TokenStorageError:
        number = counted(found.number, "value")
        if found.unopened == found.number:
            return TokenStorageError(
                f"{number} of {self.source} cannot be decrypted; nothing was copied.",
                code="undecryptable",
                remedy="Add the keys that are missing to TOKEN_ENCRYPTION_KEY, after the newest, "
                "and restore or delete the rows that were changed; or copy the values as they are "
                "with --without-keys.",
            )
        return TokenStorageError(
            f"{number} of {self.source} cannot be carried over to {self.target}; nothing was "
            "copied.",
            code="unreadable",
            remedy="Correct these values in the source, or delete their rows, then copy again.",
        )

    def _left(self, rows: Source) -> list[Left]:
        found = plan.left_behind(rows.structure(), self._parts, self.source.history)
        with_rows = (
            one._replace(rows=rows.count(one.name)) if one.what == "table" else one for one in found
        )
        # A table of ours that this engine does not have is empty, as no release fills it.
        ours = self.source.history.shapes
        return [one for one in with_rows if one.rows != 0 or one.name not in ours]

    def _fill(
        self,
        rows: Source,
        sums: Mapping[str, Checksum],
        begun: float,
        progress: ProgressCallback | None,
    ) -> None:
        timeout = self._settings[1].lock_timeout
        prepare(self.target, lock_timeout=timeout, progress=progress)
        with self.target.lock(timeout) as locked:
            inspection = Inspection.of(self.target, locked.inspect())
            require_at_head(inspection)
            locked.require_writable()
            activity = "copying rows into it"
            with (
                progress_to(self.target, locked, activity, progress) as report,
                _translated(self.target),
            ):
                self._transact(locked, rows, sums, report, begun)
                report("finishing")
                locked.finish()

    def _transact(
        self,
        locked: LockedDatabase,
        rows: Source,
        sums: Mapping[str, Checksum],
        report: Reporter,
        begun: float,
    ) -> None:
        def work(transaction: Transaction) -> None:
            target = engines.target(self.target, transaction)
            target.reserve(self._parts)
            known = self.target.history.shapes.keys() - plan.OWN_ROWS
            own = sorted(known & transaction.structure().tables.keys())
            self._require_empty({name: transaction.count(name) for name in own})
            total = sum(found.rows for found in sums.values())
            self._send(rows, target, report, total)
            self._compare(target, sums, report, total)
            copied = [found.rows for found in sums.values() if found.rows]
            note = f"from {self.source}: {counted(total, 'row')} of {counted(len(copied), 'table')}"
            head = self.target.history.head
            journal.record(transaction.execute, "copy", head, head, begun=begun, note=note)

        locked.transact(work)

    def _send(self, rows: Source, target: Target, report: Reporter, total: int) -> None:
        done = 0

        def batches(part: Part) -> Iterator[Rows]:
            nonlocal done
            # Outside of this block its error would be named after the target.
            with _translated(self.source):
                for batch in rows.batches(part):
                    yield part.convert(batch, [])
                    done += len(batch)
                    report(f"copying {part.table}", done, total, "rows")

        for part in self._parts:
            report(f"copying {part.table}", done, total, "rows")
            target.write(part, batches(part))
            target.finish(part)

    def _compare(
        self, target: Target, sums: Mapping[str, Checksum], report: Reporter, total: int
    ) -> None:
        done = 0
        for part in self._parts:
            found, problems = Checksum(), list[Problem]()
            for batch in target.batches(part):
                found.add(part.convert(batch, problems))
                done += len(batch)
                report(f"comparing {part.table}", done, total, "rows")
            if problems or found != sums[part.table]:
                raise self._different(part, sums[part.table].rows, found.rows)

    def _different(self, part: Part, sent: int, there: int) -> TokenStorageError:
        numbers = f"{counted(sent, 'row')} sent, {there} there"
        return TokenStorageError(
            f"The rows of {part.table} in {self.target} are not those that were sent ({numbers}); "
            "nothing was copied.",
            code="ignored",
            remedy="Drop the triggers and rules that somebody has added to that table, then copy "
            "again; without any, report this message.",
        )


class _Check:
    """Reads every row of the source once.

    Attributes:
        problems: the values that cannot be carried over.
        secrets: how many secrets were decrypted.
    """

    def __init__(self, copy: Copy, rows: Source, keyring: Keyring | None, report: Reporter) -> None:
        self._parts = copy.parts
        self._rows = rows
        self._keyring = keyring
        self._known = _registered(copy.parts, rows)
        self._report = report
        self._first: list[Problem] = []
        self._number = self._unopened = 0
        self.secrets = 0

    @property
    def problems(self) -> Problems:
        return Problems(self._first, self._number, self._unopened)

    def run(self) -> dict[str, Checksum]:
        """Return the checksum of each table."""
        total = sum(self._rows.count(part.table) or 0 for part in self._parts)
        sums, done = {}, 0
        for part in self._parts:
            sums[part.table] = found = Checksum()
            for batch in self._rows.batches(part):
                problems: list[Problem] = []
                rows = part.convert(batch, problems)
                if not problems:
                    # A row with a problem need not be text.
                    found.add(rows)
                    problems = self._open(part, rows)
                    self._unopened += len(problems)
                self._add(problems)
                done += len(batch)
                self._report(f"checking {part.table}", done, total, "rows")
            for at in part.unique:
                name = part.columns[at].name
                for batch in self._rows.repeated(part, at):
                    self._add([Problem(part.table, part.row(r), name, _REPEATED) for r in batch])
        return sums

    def _add(self, problems: Sequence[Problem]) -> None:
        self._number += len(problems)
        self._first += problems[: _KEPT - len(self._first)]

    def _open(self, part: Part, rows: Rows) -> list[Problem]:
        """Decrypt the secrets, each for its row; return those that are not opened."""
        problems: list[Problem] = []
        if self._keyring is None or not secrets_of(part.table):
            return problems
        names = [column.name for column in part.columns]
        hides = [hiding(part.table, name) for name in names]
        for row in rows:
            named = dict(zip(names, map(_hide, hides, row), strict=True))
            for value in values_of(part.table, named, self._keyring, self._known):
                if is_id(part.table, value.column):
                    continue
                if value.reason:
                    reason = _UNOPENED.format(value.reason)
                    problems.append(Problem(part.table, part.row(row), value.column, reason))
                # Released versions have not encrypted each of them.
                self.secrets += bool(value.key and not value.reason)
        return problems


def _hide(hide: Callable[[Any], Any] | None, value: Any) -> Any:
    return value if hide is None else hide(value)


def _registered(parts: Sequence[Part], rows: Source) -> list[RegisteredKey]:
    """Return the registered keys, as of the moment of the other rows."""
    [part] = (part for part in parts if part.table == KEYS)
    names = [column.name for column in part.columns]
    found = (dict(zip(names, row, strict=True)) for batch in rows.batches(part) for row in batch)
    return [RegisteredKey.of(row[name] for name in RegisteredKey._fields) for row in found]


@contextmanager
def _translated(database: Database) -> Iterator[None]:
    """Raise the named error for one of the driver or of the operating system."""
    try:
        yield
    except Exception as error:
        known = database.translate(error)
        if known is None or known is error:
            raise
        raise known from error


def _typed(database: Database) -> str:
    place = database.location
    if not isinstance(place, ServerUrl):
        return for_shell(place)
    return place.option.removeprefix("-u ")
