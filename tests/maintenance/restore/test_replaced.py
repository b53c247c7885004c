"""Whatever is there, damaged, gone or not ours to start, is replaced and kept."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.places import Shelf, crash
from tests.maintenance.restore.harm import DAMAGE, LOSS, Harm
from tests.maintenance.restore.restoring import restored, same
from tests.support import invariants
from tests.support.contents import REFRESH_TOKENS
from tests.support.present import present
from tests.support.revisions import HEAD
from tests.support.snapshot import snapshot


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_what_is_damaged_is_replaced_and_kept_as_it_is(harm: Harm, path: Path, saved: Path) -> None:
    """Whatever has become of the file, the backup takes its place, and every byte is kept."""
    harm(path)
    raw = path.read_bytes()
    done = restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert done.kept is not None
    assert done.kept.name.startswith("tokens.db.damaged-")
    assert done.kept.read_bytes() == raw
    assert done.kept.stat().st_mode & 0o777 == 0o600
    assert invariants.companions(path) == set()
    assert upgrade_database(path).after == HEAD


@pytest.mark.parametrize("harm", LOSS)
def test_what_is_gone_is_made_again(harm: str, path: Path, saved: Path) -> None:
    """Without a database, or with an empty one, there is nothing to keep; leftovers do no harm."""
    LOSS[harm](path)
    done = restored(path, saved)
    assert done.kept is None
    same(snapshot(path), snapshot(saved))
    assert upgrade_database(path).journal_mode == "wal"
    if harm != "emptied":
        assert invariants.companions(path) <= {"-wal", "-shm"}
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("state", ["newer", "two-rows", "no-grants"])
def test_what_no_start_may_touch_is_replaced_and_kept(
    state: str, path: Path, saved: Path, shelf: Shelf
) -> None:
    """The way back from a newer release's database, or a contradictory one, is a restore."""
    path.unlink()
    shelf.put(state, path)
    before = snapshot(path)
    done = restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert done.kept is not None
    same(snapshot(done.kept), before)


def test_what_a_crashed_server_left_is_kept_with_the_rest(path: Path, saved: Path) -> None:
    """Rows that are only in the WAL, and a journal that is still hot, are in what is kept."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (41, 1)")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path}.copy{suffix}")
    for suffix in ("", "-wal"):
        Path(f"{path}.copy{suffix}").replace(f"{path}{suffix}")
    done = restored(path, saved)
    assert done.kept is not None
    assert [row["version"][1] for row in snapshot(done.kept).rows["schema_version"]] == [41]
    same(snapshot(path), snapshot(saved))
    before = snapshot(path)
    left = path.with_name("left.db")
    crash(path, left)
    for suffix in ("", "-journal"):
        Path(f"{left}{suffix}").replace(f"{path}{suffix}")
    rows = present(preview_restore(path, saved).rows)
    assert rows["refresh_tokens"] == len(REFRESH_TOKENS)
    done = restored(path, saved)
    same(snapshot(present(done.kept)), before)
    same(snapshot(path), snapshot(saved))
