"""Checks after a fault: the old database or the new one, with every acknowledged write."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.schema.secrets import secrets_of
from tests.faults.injection import Injector, Result, copy_database
from tests.faults.scenarios import Scenario, assert_complete, prepare
from tests.support.contents import KEY
from tests.support.invariants import JOURNAL
from tests.support.snapshot import COMPANIONS, Snapshot, counted, opened_copy, snapshot

TOKEN: Final = secrets_of("refresh_tokens")["encrypted_token"]

NOTHING: Final = "nothing"


def state(path: Path) -> str:
    """Return the :func:`digest` of ``path``; for a damaged file the hash of its bytes."""
    try:
        return digest(read(path))
    except (sqlite3.Error, UnicodeDecodeError):
        return f"damaged {hashlib.sha256(path.read_bytes()).hexdigest()}"


def digest(seen: Snapshot | None) -> str:
    """Return a hash of a database's tables, columns, keys, indexes and rows."""
    if seen is None or not (seen.rows or seen.others):
        return NOTHING
    # The journal contains times: no two runs write the same.
    rows = {n: sorted(counted(r).items()) for n, r in seen.rows.items() if n != JOURNAL}
    facts = (
        sorted(rows.items()),
        sorted((name, sorted(columns)) for name, columns in seen.columns.items()),
        sorted(seen.keys.items()),
        sorted(seen.indexes.items()),
        sorted(seen.others),
        seen.marks,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def read(path: Path) -> Snapshot | None:
    """Return the content of a closed database; None if there is no file."""
    return snapshot(path) if path.exists() else None


@dataclass(frozen=True)
class Case:
    """A scenario after its reference run: its database before, after, and after a start.

    Attributes:
        source: the database of the scenario, which is only copied.
        operations: the number of file operations.
        old: the database before.
        new: the database after.
        restarted: the database after the next start, from the old one or from the new one.
        checked: the problem of each fingerprint.
        states: the :func:`state` of each fingerprint.
    """

    scenario: Scenario
    injector: Injector
    source: Path
    operations: int
    old: str
    new: str
    restarted: frozenset[str]
    checked: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def wrong(self, path: Path, *, only: str | None = None) -> str:
        """Return the problem of what a fault has left, before and after the next start.

        Folders with the same files are checked once. (Backups have random names and count by
        their bytes.)

        ``only`` is the digest that the database must have (default: that of before or of after).
        """
        key = f"{only} {fingerprint(path)}"
        if key not in self.checked:
            self.checked[key] = (
                state_problem(self, path, only=only)
                or backup_problem(self, path)
                or restart_problem(self, path)
            )
        return self.checked[key]

    def left(self, path: Path) -> str:
        """Return the :func:`state` of what a fault has left; equal folders are read once."""
        key = fingerprint(path)
        if key not in self.states:
            self.states[key] = state(path)
        return self.states[key]


def each_fault(
    injector: Injector,
    scenario: Scenario,
    source: Path,
    kind: int,
    points: Iterable[int],
) -> Iterator[tuple[int, Path, Result]]:
    """Run the scenario on copies of ``source``, each with a fault at one of ``points``.

    Yields the point, the copy and the result.
    """
    for at in points:
        path = copy_database(source, source.parent.with_name("faulty"))
        result = injector.run(scenario.do, path, at=at, kind=kind, argument=scenario.argument)
        yield at, path, result


def count_operations(injector: Injector, scenario: Scenario, source: Path) -> Result:
    """Run the scenario on a copy of ``source`` without a fault."""
    path = copy_database(source, source.parent.with_name("counted"))
    result = injector.run(scenario.do, path, argument=scenario.argument)
    assert result.end == "done", result
    return result


def fingerprint(path: Path) -> str:
    """Return the names and hashes of the files in the folder, without lock files."""
    files = []
    for file in path.parent.iterdir():
        if file.name.endswith((".lock", ".inuse", "-shm")):
            continue
        name = re.sub(r"\.[0-9a-f]{6,8}(?=\.partial)|\d{8}T[\d.]*Z", "#", file.name)
        # An unpublished file counts by its name, since nothing reads it. A manifest contains
        # times, so only its match with its backup counts.
        content = b"" if ".partial" in name else file.read_bytes()
        if file.name.endswith(".json"):
            content = content if is_of_another_backup(file) else b""
        files.append((name, hashlib.sha256(content).hexdigest()))
    return repr(sorted(files))


def reference_run(scenario: Scenario, injector: Injector, workspace: Path) -> Case:
    """Run the scenario without a fault and start afterwards; check that nothing is lost."""
    source = prepare(scenario, workspace / "source")
    before = read(source) if scenario.keeps else None
    path = copy_database(source, workspace / "reference")
    done = injector.run(scenario.do, path, argument=scenario.argument)
    assert done.end == "done", done
    new = state(path)
    started = copy_database(source, workspace / "started")
    for final in (path, started):
        again = injector.restart(final, scenario.heal)
        assert again.end == "done", again
        assert_complete(final, before, scenario.base)
    restarted = frozenset(state(final) for final in (path, started))
    return Case(scenario, injector, source, done.operations, state(source), new, restarted)


def state_problem(case: Case, path: Path, *, only: str | None = None) -> str:
    """Return the problem of a database right after a fault; empty if there is none.

    ``only`` is the digest that it must have (default: that of before or of after).
    """
    left = case.left(path)
    if left in ({case.old, case.new} if only is None else {only}):
        return ""
    kind = left if left.startswith("damaged") else {case.old: "the old one"}.get(left, "another")
    return f"it is neither the old database nor the new one, or not the acknowledged one: {kind}"


def restart_problem(case: Case, path: Path) -> str:
    """Return the problem of a database after the next start; empty if there is none."""
    again = case.injector.restart(path, case.scenario.heal)
    if again.end != "done":
        return f"the next {case.scenario.heal} {again.end}: {again.code} {again.message}"
    if state(path) not in case.restarted:
        return "the next start has lost or changed something"
    return ""


def lost_acknowledgement(path: Path, acknowledged: Iterable[str], *, key: str | None = KEY) -> str:
    """Return the acknowledged write that the closed ``path`` has lost; empty if there is none.

    Args:
        acknowledged: ``stored user-N``, ``deleted user-N``, ``backup NAME``; or ``done``, which
            only :func:`state_problem` checks.
        key: the key of the tokens; None for the key file beside the database.
    """
    key = key or path.with_name(path.name + ".key").read_text("ascii").strip()
    tokens = _tokens(path, key)
    for text in acknowledged:
        what, _, name = text.partition(" ")
        if what == "done":
            continue
        if what == "backup":
            kept = path.with_name(name)
            if not kept.exists() or state(kept) != state(path):
                return f"{name} does not hold what the database holds"
        elif (what == "stored") != (name in tokens):
            return f"{text}, and that is lost"
    if broken := {user for user, token in tokens.items() if token != _token_of(user)}:
        return f"the tokens of {broken} cannot be read"
    return ""


def reopen_problem(
    scenario: Scenario, injector: Injector, path: Path, acknowledged: Iterable[str]
) -> str:
    """Start on what a fault has left; return the problem of that start, or what it has lost."""
    own_key = scenario.do == "first_store"
    again = injector.restart(path, "start_with_key" if own_key else "start")
    if again.end != "done":
        return f"the next start {again.end}: {again.code} {again.message}"
    return integrity_problem(path) or lost_acknowledgement(
        path, acknowledged, key=None if own_key else KEY
    )


def integrity_problem(path: Path) -> str:
    """Return what SQLite's integrity check reports for a closed database; empty if it is sound."""
    with opened_copy(path) as connection:
        (result,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return "" if result == "ok" else str(result)


def _token_of(user: str) -> str:
    return user.replace("user-", "token-")


def _tokens(path: Path, key: str) -> dict[str, str | None]:
    """Return the tokens that an operation stores; None for one that cannot be decrypted."""
    ring, tokens = Keyring(key), dict[str, str | None]()
    for row in snapshot(path).rows["refresh_tokens"]:
        bound = {name: row.get(name, (None, None))[1] for name in TOKEN.bound}
        if (user := str(bound["user_id"])).startswith("user-"):
            opened = ring.opened(row["encrypted_token"][1], binding(TOKEN, bound))
            tokens[user] = None if opened is None else opened[1].decode().reveal()
    return tokens


def backup_problem(case: Case, path: Path, acknowledged: Iterable[str] = ()) -> str:
    """Return the problem of the published backups, of which those ``acknowledged`` must exist."""
    if missing := [name for name in acknowledged if not path.with_name(name).exists()]:
        return f"{missing} was acknowledged, and does not exist"
    for backup in path.parent.glob(f"{path.name}.backup-*"):
        if backup.name.endswith(COMPANIONS):
            continue
        if backup.suffix == ".json":
            if is_of_another_backup(backup):
                return f"{backup.name} does not match its backup"
            continue
        if state(backup) not in {case.old, case.new, *case.restarted}:
            return f"{backup.name} is not a copy of the database"
    return ""


def is_of_another_backup(manifest: Path) -> bool:
    """Return whether a manifest is incomplete or does not match its backup."""
    try:
        sha256 = json.loads(manifest.read_bytes())["sha256"]
        backup = manifest.with_suffix("").read_bytes()
    except (ValueError, KeyError, FileNotFoundError):
        return True
    return bool(sha256 != hashlib.sha256(backup).hexdigest())
