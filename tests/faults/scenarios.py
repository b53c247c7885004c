"""The scenarios of the fault tests: a database, and an operation on it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.migrations import upgrade_database
from tests.history import released_files
from tests.support import shapes
from tests.support.contents import KEY
from tests.support.facts import REVISIONS
from tests.support.invariants import complete_at_head, rows_survive, secrets_in
from tests.support.shapes import Shape
from tests.support.snapshot import Snapshot, copy_database, snapshot

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Scenario:
    """One operation on one database.

    Attributes:
        name: the id of the test.
        do: the operation.
        make: creates the database; None for a path without a file.
        base: the revision that the database counts as.
        keeps: whether the operation keeps every row, unlike a downgrade.
        heal: the operation that migrates what a fault leaves to head.
    """

    name: str
    do: str
    argument: str = ""
    make: Make | None = None
    base: str | None = None
    keeps: bool = True
    heal: str = "start"

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def of(shape: Shape, *pragmas: str) -> Make:
    """Return a function that writes ``shape``."""
    return lambda path: shape.write(path, pragmas)


#: The narrowest file in the field.
NARROW: Final = (
    shapes.at("001").unversioned().narrowed("refresh_tokens", *released_files.TOKEN_WIDTHS[5])
)

HEAD: Final = REVISIONS[-1]
head: Final = of(shapes.at(HEAD, "portable"), "journal_mode=WAL")
head_without_wal: Final = of(shapes.at(HEAD, "portable"))


def index_damaged(path: Path) -> None:
    """A database at head in which an index lacks a row."""
    head_without_wal(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        (row,) = connection.execute(f"SELECT * FROM sqlite_master WHERE name='{_INDEX}'")
        connection.execute(f"DELETE FROM sqlite_master WHERE name='{_INDEX}'")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'e', 'u')"
        )
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)


_INDEX: Final = "idx_audit_user_timestamp"


#: The name of the backup beside the database.
SAVED: Final = "tokens.db.saved"


def with_saved(make: Make | None) -> Make:
    """Create a database (or none), and beside it the older one to restore."""

    def both(path: Path) -> None:
        shapes.at("009", "portable").write(path.with_name(SAVED))
        if make is not None:
            make(path)

    return both


def cut_short(make: Make) -> Make:
    """Leave what a killed writer leaves: a hot journal, or rows in the ``-wal`` only."""

    def both(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            origin = Path(folder) / path.name
            make(origin)
            with closing(sqlite3.connect(origin, isolation_level=None)) as connection:
                # With a small cache pages are written before the commit.
                connection.execute("PRAGMA cache_size=1")
                connection.execute("UPDATE audit_logs SET hostname='pod-2'")
                connection.execute("BEGIN")
                connection.execute("UPDATE refresh_tokens SET encrypted_token=zeroblob(20000)")
                copy_database(origin, path)

    return both


_WIDTHS_AGAIN: Final = {"pre_lived_5_16", "pre_lived_10_12", "pre_lived_12_12"}


def upgrades() -> Iterator[Scenario]:
    """Yield upgrades from no file, from each revision, from drafts, from shapes before Alembic.

    Lineages and journal modes alternate: a declared type changes no file operation, and each
    journal mode occurs at every second revision.
    """
    yield Scenario("a first start", "start")
    for revision, lineage in zip(REVISIONS[:-1], cycle(released_files.LINEAGES)):
        wal = ["journal_mode=WAL"] if lineage == "portable" else []
        name = f"{lineage} {revision}" + (" in WAL" if wal else "")
        make = of(shapes.at(revision, lineage), *wal)
        yield Scenario(name, "start", make=make, base=revision)
    for name, make in (
        ("006", of(shapes.at("006"))),
        ("009 in WAL", of(shapes.at("009", "portable"), "journal_mode=WAL")),
    ):
        left = cut_short(make)
        yield Scenario(f"a writer killed at {name}", "start", make=left, base=name[:3])
    # One draft stands for all, since each recreates the same table. Each width of a table
    # occurs, but not each combination.
    drafts = (case for case in released_files.drafts() if case.name == "rev010_portable_draft2")
    for case in (*released_files.pre_alembic(), *drafts):
        if case.name in _WIDTHS_AGAIN:
            continue
        yield Scenario(case.name.replace("_", " "), "start", make=case.write, base=case.base)


def changes() -> Iterator[Scenario]:
    """Yield the operations of commands."""
    for target in ("-1", "base"):
        name = f"a downgrade to {target}"
        yield Scenario(name, "downgrade", target, head, HEAD, keeps=False)
    # A stamp needs what the revision has: 102 drops an index.
    later = of(shapes.at("101", "portable"), "journal_mode=WAL")
    yield Scenario("a stamp", "stamp", "005", later, "005")
    yield Scenario("a stamp of nothing", "stamp", "base", head, "001")
    yield Scenario("a backup", "backup", "", head, HEAD)
    yield Scenario("a backup of a file in DELETE mode", "backup", "", of(shapes.at("010")), "010")
    presents = {"": head, " in DELETE mode": head_without_wal, " of what is gone": None}
    for name, make in presents.items():
        restored = with_saved(make)
        yield Scenario(f"a restore{name}", "restore", SAVED, restored, HEAD, keeps=False)
    broken = {
        "two revisions": of(shapes.at("006").recording("006", "009")),
        "a damaged index": index_damaged,
    }
    for name, make in broken.items():
        yield Scenario(f"a repair of {name}", "repair", "", make, keeps=False, heal="repair")


UPGRADES: Final = tuple(upgrades())
CHANGES: Final = tuple(changes())


def named(*names: str) -> tuple[Scenario, ...]:
    """Return the scenarios of these names."""
    scenario_id = {scenario.name: scenario for scenario in (*UPGRADES, *CHANGES)}
    return tuple(scenario_id[name] for name in names)


#: One scenario for each kind of operation, for disk errors, of which there are four kinds.
TYPICAL: Final = named(
    "a first start",
    "raw 005",
    "portable 010 in WAL",
    "a downgrade to -1",
    "a backup",
    "a restore",
    "a restore of what is gone",
    "a repair of a damaged index",
)


def stored(path: Path) -> None:
    """Create a database at head with five tokens, with the program."""
    # Imported late: only this scenario needs the store.
    from tests.faults.operations import store  # noqa: PLC0415

    store(path, "5")


#: Writes of a running store, which acknowledges each. The first start is a scenario of its own.
WRITES: Final = (
    Scenario("tokens stored", "store", "5", upgrade_database),
    Scenario("tokens stored together", "store_together", "8", upgrade_database),
    Scenario("tokens stored without WAL", "store_on_network", "5", head_without_wal),
    Scenario("tokens stored with a new key", "first_store", "3", upgrade_database),
    Scenario("tokens deleted", "delete", "5", stored),
)


#: Databases of a start that is disturbed.
BEGINNINGS: Final = {
    "fresh": Scenario("", ""),
    "pre-Alembic": Scenario("", "", make=of(NARROW), base="001"),
    "old": Scenario("", "", make=of(shapes.at("005", "raw")), base="005"),
    "current": Scenario("", "", make=of(shapes.at("010")), base="010"),
}


def prepare(scenario: Scenario, folder: Path) -> Path:
    """Create the scenario's database in ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokens.db"
    if scenario.make:
        scenario.make(path)
    return path


def assert_complete(path: Path, before: Snapshot | None, base: str | None) -> None:
    """Check that ``path`` is complete at head, with every row and secret of ``before``.

    ``before`` is None if there was no database; ``base`` is the revision that it counted as.
    """
    after = snapshot(path)
    complete_at_head(after)
    if before is not None:
        rows_survive(before, after, base, {})
        assert secrets_in(before, KEY).items() <= secrets_in(after, KEY).items()
