"""What a fault may leave behind: the old database or the new one, and every promise kept."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.harness import Result, Victim, copy_database
from tests.faults.scenes import Scene, prepare, whole
from tests.support.contents import KEY
from tests.support.invariants import JOURNAL, decrypted
from tests.support.snapshot import COMPANIONS, Snapshot, counted, snapshot

NOTHING: Final = "nothing"


def state(path: Path) -> str:
    """What lies at ``path`` in one word, as :func:`digest`; damage by its bytes."""
    try:
        return digest(read(path))
    except (sqlite3.Error, UnicodeDecodeError):
        return f"damaged {hashlib.sha256(path.read_bytes()).hexdigest()}"


def digest(seen: Snapshot | None) -> str:
    """A database's tables, columns, keys, indexes and rows in one word; no two differ by luck."""
    if seen is None or not (seen.rows or seen.others):
        return NOTHING
    # What a row of the journal says has times in it: no two runs write the same.
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
    """What is in a closed database; None where there is no file."""
    return snapshot(path) if path.exists() else None


@dataclass(frozen=True)
class Case:
    """A scene, rehearsed: what its database is before, after, and after the next start.

    Attributes:
        scene: the scene.
        victim: the process that is hurt.
        source: its database; to be copied, and never touched.
        operations: how many file operations its order takes.
        old: the database before.
        new: the database after.
        restarted: the database after the next start, from the old one or from the new one.
        judged: what was wrong with what was found on the disk, by what it was.
        states: the :func:`state` of what was found on the disk, by what it was.
    """

    scene: Scene
    victim: Victim
    source: Path
    operations: int
    old: str
    new: str
    restarted: frozenset[str]
    judged: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def hurt(self, path: Path, at: int, kind: int) -> Result:
        """Carry out the order on ``path`` with a fault at one of its operations."""
        scene = self.scene
        return self.victim.order(scene.do, path, at=at, kind=kind, argument=scene.argument)

    def wrong(self, path: Path, *, only: str | None = None) -> str:
        """What is wrong with what a fault has left, before and after the next start.

        What is on the disk decides, so what has the same files in it, byte for byte, is
        started on and judged once. (Backups have random names, and count by their bytes.)

        Args:
            path: the database.
            only: the digest that it must have (default: that of before or of after).
        """
        key = f"{only} {fingerprint(path)}"
        if key not in self.judged:
            self.judged[key] = (
                unchanged(self, path, only=only)
                or backups_are_whole(self, path)
                or recovers(self, path)
            )
        return self.judged[key]

    def left(self, path: Path) -> str:
        """The :func:`state` of what a fault has left; of the same files, read once."""
        key = fingerprint(path)
        if key not in self.states:
            self.states[key] = state(path)
        return self.states[key]


def fingerprint(path: Path) -> str:
    """All that is in the folder of a database, but for what a lock file says of its holder."""
    files = []
    for file in path.parent.iterdir():
        if file.name.endswith((".lock", ".inuse", "-shm")):
            continue
        name = re.sub(r"\.[0-9a-f]{6,8}(?=\.partial)|\d{8}T[\d.]*Z", "#", file.name)
        # What was never published counts by its name: nothing reads it any more. Of a
        # manifest, which says when it was made, it counts whether it speaks of its backup.
        content = b"" if ".partial" in name else file.read_bytes()
        if file.name.endswith(".json"):
            content = content if speaks_of_something_else(file) else b""
        files.append((name, hashlib.sha256(content).hexdigest()))
    return repr(sorted(files))


def rehearse(scene: Scene, victim: Victim, arena: Path) -> Case:
    """Carry the scene out unhurt, and start afterwards; check that it loses nothing.

    Args:
        scene: the scene.
        victim: the process that does it.
        arena: an empty folder to do it in.
    """
    source = prepare(scene, arena / "source")
    before = read(source) if scene.keeps else None
    path = copy_database(source, arena / "rehearsed")
    done = victim.order(scene.do, path, argument=scene.argument)
    assert done.end == "done", done
    new = state(path)
    started = copy_database(source, arena / "started")
    for final in (path, started):
        again = victim.restart(final, scene.heal)
        assert again.end == "done", again
        whole(final, before, scene.base)
    restarted = frozenset(state(final) for final in (path, started))
    return Case(scene, victim, source, done.operations, state(source), new, restarted)


def unchanged(case: Case, path: Path, *, only: str | None = None) -> str:
    """What is wrong with a database right after a fault; empty when nothing is.

    Args:
        case: the scene.
        path: the database.
        only: the digest that it must have (default: that of before or of after).
    """
    left = case.left(path)
    if left in ({case.old, case.new} if only is None else {only}):
        return ""
    kind = left if left.startswith("damaged") else {case.old: "the old one"}.get(left, "another")
    return f"it is neither the old database nor the new one, or not the promised one: {kind}"


def recovers(case: Case, path: Path) -> str:
    """What is wrong with a database after the next start; empty when nothing is."""
    again = case.victim.restart(path, case.scene.heal)
    if again.end != "done":
        return f"the next {case.scene.heal} {again.end}: {again.code} {again.message}"
    if state(path) not in case.restarted:
        return "the next start has lost or changed something"
    return ""


def promised(path: Path, promises: Iterable[str], *, key: str | None = KEY) -> str:
    """What promise is broken by what lies at ``path``; empty when none is.

    Args:
        path: the database; closed, and recovered already.
        promises: ``stored user-N``, ``deleted user-N``, ``backup NAME``; or ``done``, of which
            only :func:`unchanged` knows what it means.
        key: the key of the tokens; None for the one beside the database.
    """
    key = key or path.with_name(path.name + ".key").read_text("ascii").strip()
    tokens = _tokens(path, key)
    for promise in promises:
        what, _, name = promise.partition(" ")
        if what == "done":
            continue
        if what == "backup":
            kept = path.with_name(name)
            if not kept.exists() or state(kept) != state(path):
                return f"{name} does not hold what the database holds"
        elif (what == "stored") != (name in tokens):
            return f"{promise}, and that is lost"
    if broken := {user for user, token in tokens.items() if token != _token_of(user)}:
        return f"the tokens of {broken} cannot be read"
    return ""


def _token_of(user: str) -> str:
    return user.replace("user-", "token-")


def _tokens(path: Path, key: str) -> dict[str, str | None]:
    """The tokens of the users that an order stores; None for one that ``key`` cannot open."""
    return {
        str(row["user_id"][1]): decrypted(key, row["encrypted_token"][1])
        for row in snapshot(path).rows["refresh_tokens"]
        if str(row["user_id"][1]).startswith("user-")
    }


def backups_are_whole(case: Case, path: Path, promised: Iterable[str] = ()) -> str:
    """What is wrong with the published backups; empty when every one is a whole database.

    Args:
        case: the scene.
        path: the database.
        promised: names of backups that must be there.
    """
    if missing := [name for name in promised if not path.with_name(name).exists()]:
        return f"{missing} was acknowledged, and is not there"
    for backup in path.parent.glob(f"{path.name}.backup-*"):
        if backup.name.endswith(COMPANIONS):
            continue
        if backup.suffix == ".json":
            if speaks_of_something_else(backup):
                return f"{backup.name} does not speak of its backup"
            continue
        if state(backup) not in {case.old, case.new, *case.restarted}:
            return f"{backup.name} is not a copy of the database"
    return ""


def speaks_of_something_else(manifest: Path) -> bool:
    """Whether a manifest is half, or of a backup that is not there, or has other bytes."""
    try:
        sha256 = json.loads(manifest.read_bytes())["sha256"]
        backup = manifest.with_suffix("").read_bytes()
    except (ValueError, KeyError, FileNotFoundError):
        return True
    return bool(sha256 != hashlib.sha256(backup).hexdigest())


def clear(folder: Path) -> Path:
    """``folder``, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
