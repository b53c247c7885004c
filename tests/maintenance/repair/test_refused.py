"""A repair that is refused, or fails, or is killed leaves the database as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.maintenance import repair as repairs
from nextcloud_mcp_server.maintenance.indexes import rebuild_indexes
from nextcloud_mcp_server.maintenance.repair import repair
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import REFUSED, Shelf, fingerprint
from tests.maintenance.conftest import run_repair
from tests.support import invariants
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refused
from tests.support.files import flip, names
from tests.support.shapes import Shape, at
from tests.support.snapshot import snapshot

RENAMED = (
    "ALTER TABLE refresh_tokens RENAME COLUMN provisioning_client_id TO qrovisioning_client_id"
)
TWO_ROWS = at("006").recording("005", "006")
ADOPTED = "ALTER TABLE refresh_tokens RENAME TO _alembic_tmp_refresh_tokens"
#: The other tables with secrets.
OTHERS = ("app_passwords", "oauth_clients", "login_flow_sessions")


def test_an_index_that_cannot_be_made_is_left(path: Path) -> None:
    """If there is other damage too, the transaction is rolled back with a reason."""
    at("009").write(path)
    before = snapshot(path)
    with path.open("r+b") as file:
        # The number of free pages.
        file.seek(36)
        file.write((3).to_bytes(4, "big"))
    hurt = path.read_bytes()
    assert "freelist" in rebuild_indexes(path)
    assert path.read_bytes() == hurt
    assert len(snapshot(path).rows["refresh_tokens"]) == len(before.rows["refresh_tokens"])


def is_refused(path: Path, code: str) -> None:
    """Check that a repair and its preview raise the error of this code and change nothing."""
    before = fingerprint(path)
    settings = Settings(path)
    assert refused(lambda: repair(settings)).code == code
    assert refused(lambda: repairs.preview_repair(settings)).code == code
    assert fingerprint(path) == before


def test_a_renamed_column_is_refused_unchanged(path: Path) -> None:
    """A repair does not guess the name of a column; the file keeps bytes, mode and times."""
    at("009").also(RENAMED).write(path)
    path.chmod(0o644)
    is_refused(path, "inconsistent")


@pytest.mark.parametrize(
    ("shape", "mode"),
    [(TWO_ROWS, 0o600), (at("006").without(*OTHERS).also(ADOPTED), 0o600), (at("010"), 0o644)],
    ids=["two rows", "a copy of the grants", "not private"],
)
def test_the_given_keys_are_verified_first(path: Path, shape: Shape, mode: int) -> None:
    """A wrong or malformed key prevents any repair; a missing one does not."""
    shape.write(path)
    path.chmod(mode)
    before = fingerprint(path)
    for keys, code in ((("short",), "malformed-key"), ((OTHER_KEY,), "wrong-key")):
        assert refused(partial(repair, Settings(path, keys))).code == code
    missing = Settings(path, key_file=path.with_name("no.key"))
    assert refused(lambda: repair(missing)).code == "key-missing"
    assert fingerprint(path) == before
    assert names(path.parent) == {path.name, f"{path.name}.lock"}
    other = path.with_name("other.db")
    shutil.copy(path, other)
    assert repair(Settings(other)).done
    assert repair(Settings(path, (OTHER_KEY, KEY))).done


def test_a_damaged_table_is_refused_unchanged(path: Path) -> None:
    """A database with damaged rows is not repaired."""
    at("009").write(path, ["page_size=4096"])
    flip(path, "refresh_tokens")
    is_refused(path, "corrupt")


@pytest.mark.parametrize("state", sorted(REFUSED.keys() - {"two-rows"}))
def test_what_a_start_refuses_is_refused(state: str, path: Path, shelf: Shelf) -> None:
    """It has the state's own code, and the file is unchanged; only two rows can be repaired."""
    shelf.put(state, path)
    is_refused(path, REFUSED[state][0])


def test_what_is_not_there_is_refused(path: Path) -> None:
    """A repair makes no database."""
    is_refused(path, "bad-path")
    assert not path.exists()


def test_what_cannot_be_written_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names what is in the way."""
    TWO_ROWS.write(path)
    monkeypatch.setattr(permissions, "unwritable", lambda _: "the disk is a compact disc")
    error = refused(lambda: run_repair(path))
    assert (error.code, error.message) == (
        "read-only",
        f"{path} has to be changed, and the disk is a compact disc.",
    )


#: Dies where the transaction has done everything and is not committed.
_DYING = """
import os, signal, sys
from pathlib import Path
from nextcloud_mcp_server.migrate import verify
from nextcloud_mcp_server.maintenance.repair import repair
from nextcloud_mcp_server.settings import Settings
verify.problem = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
repair(Settings(Path(sys.argv[1])))
"""


def test_killed_before_the_commit_it_is_as_it_was(path: Path) -> None:
    """A killed repair leaves the old database, and the next one repairs it."""
    TWO_ROWS.write(path)
    before = snapshot(path)
    done = subprocess.run([sys.executable, "-c", _DYING, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    invariants.same_content(before, snapshot(path))
    run_repair(path)
    invariants.complete_at_head(snapshot(path))


def test_a_repair_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside the transaction rolls all of it back."""
    TWO_ROWS.write(path)
    before = snapshot(path)

    def fail(*_: object) -> int:
        raise TokenStorageError("It broke.", code="io-error", remedy="Try again.")

    monkeypatch.setattr("nextcloud_mcp_server.migrate.alembic_commands.upgrade", fail)
    assert refused(lambda: run_repair(path)).code == "migration-failed"
    invariants.same_content(before, snapshot(path))


def test_what_was_not_confirmed_is_not_done(path: Path) -> None:
    """If the database needs another repair by now, the user must confirm again."""
    TWO_ROWS.write(path)
    agreed = repairs.preview_repair(Settings(path))
    path.unlink()
    at("009").recording("010", "009").write(path)
    before = fingerprint(path)
    assert refused(lambda: repair(Settings(path), agreed)).code == "declined"
    assert fingerprint(path) == before
    assert repair(Settings(path), repairs.preview_repair(Settings(path))).done


def test_a_copy_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete copy of a damaged file is deleted, and the file is unchanged."""
    at("009").write(path, ["page_size=4096"])
    flip(path, "idx_audit_user_timestamp")
    before = fingerprint(path)
    path.chmod(0o600)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refused(lambda: run_repair(path)).code == "disk-full"
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}
    assert fingerprint(path)[0] == before[0]
