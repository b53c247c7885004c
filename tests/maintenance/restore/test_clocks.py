"""Backups under clocks that go back and forth: real programs, whose clock is years away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import backup_files
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path, read_manifest
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backups import list_backups, newest_backup
from tests.faults.programs import Ended, Invocation, ProgramServer
from tests.support.contents import KEY
from tests.support.errors import refused
from tests.support.revisions import HEAD
from tests.support.shapes import at

YEAR = 365 * 86400


@pytest.fixture
def clocks(programs: ProgramServer) -> ProgramServer:
    """The program, if its clock can be set."""
    if programs.clock is None:
        pytest.skip("no C compiler")
    return programs


def _run(programs: ProgramServer, path: Path, *arguments: str, clock: int) -> Ended:
    name, *others = arguments
    environ = {"TOKEN_ENCRYPTION_KEY": KEY}
    command = Invocation(
        ["db", name, "-d", str(path), *others], path.parent, clock=clock, environ=environ
    )
    [ended] = programs.run([command])
    assert "Traceback" not in ended.output
    return ended


def _backup(programs: ProgramServer, path: Path, clock: int) -> Path:
    before = set(path.parent.iterdir())
    ended = _run(programs, path, "backup", clock=clock)
    assert ended.status == 0, ended.output
    [made] = (p for p in set(path.parent.iterdir()) - before if p.suffix != ".json")
    return made


@pytest.mark.parametrize("clock", [-10 * YEAR, 10 * YEAR])
def test_a_migration_keeps_the_backup_that_it_made(
    clock: int, path: Path, clocks: ProgramServer
) -> None:
    """A clock that is years away does not make the newest backup the oldest."""
    at("006").write(path)
    for _ in range(backup_files.KEEP):
        backups.make_backup(path, backup_files.backup_path(path, "006"))
    before = set(backup_files.automatic_backups(path))
    ended = _run(clocks, path, "upgrade", clock=clock)
    assert ended.status == 0, ended.output
    left = backup_files.automatic_backups(path)
    [made] = set(left) - before
    assert made.name in ended.output
    assert (left[-1], len(left)) == (made, backup_files.KEEP)


def test_the_newest_is_the_one_that_was_made_last(path: Path, clocks: ProgramServer) -> None:
    """The order is that of the numbers in the manifests, whatever the clock was."""
    at("006").write(path)
    made = [_backup(clocks, path, clock) for clock in (-YEAR, -3 * YEAR, 0, -2 * YEAR, -4 * YEAR)]
    assert [one.path for one in list_backups(path)] == made[::-1]
    assert newest_backup(path).backup.path == made[-1]
    made[-1].write_bytes(b"")
    assert newest_backup(path).backup.path == made[-2]


def test_backups_of_an_older_release_are_placed_by_their_time(path: Path) -> None:
    """Without numbers the order is that of the times; a new backup follows all of them."""
    at("006").write(path)
    old = [back_up(path) for _ in range(3)]
    for backup in old:
        place = manifest_path(backup)
        facts = json.loads(place.read_text())
        del facts["sequence"], facts["action"]
        place.write_text(json.dumps(facts))
    manifest_path(old[1]).unlink()
    new = [back_up(path) for _ in range(2)]
    bare = back_up(path)
    manifest_path(bare).unlink()
    assert [one.path for one in list_backups(path)] == [*old, *new, bare][::-1]


@pytest.mark.parametrize("confirmed", [["-y"], []])
def test_newest_takes_no_backup_from_the_future(
    confirmed: list[str], path: Path, clocks: ProgramServer
) -> None:
    """It is skipped by name, and the next one is taken; if there is no other, none is."""
    at("006").write(path)
    future = _backup(clocks, path, 70 * YEAR)
    refused(lambda: newest_backup(path), "bad-backup", "in the future")
    future.rename(path.with_name("kept"))
    good = back_up(path)
    path.with_name("kept").rename(future)
    manifest = read_manifest(future)
    assert manifest is not None
    # As if it had been made last.
    manifest_path(future).write_text(
        manifest_path(future).read_text().replace('"sequence": 1', '"sequence": 9')
    )
    ended = _run(clocks, path, "restore", "--newest", *confirmed, clock=0)
    assert f"skipped: {future} was made at " in ended.output
    assert str(good) in ended.output
    assert (ended.status, f"restored {path} from {good}" in ended.output) == (
        (0, True) if confirmed else (1, False)
    )


def test_a_clock_behind_the_newest_backup_is_named(path: Path, clocks: ProgramServer) -> None:
    """A backup and a migration warn of it; a clock that is right gives no warning."""
    at("006").write(path)
    right = _run(clocks, path, "backup", clock=0)
    assert "The clock" not in right.output
    wrong = _run(clocks, path, "backup", clock=-10 * YEAR)
    assert (wrong.status, "warning: The clock shows " in wrong.output) == (0, True)


def test_a_clock_behind_the_journal_is_named(path: Path, clocks: ProgramServer) -> None:
    """A change of the schema warns if the last one has a later time; no backup is needed."""
    assert _run(clocks, path, "upgrade", clock=0).status == 0
    assert not backup_files.find_backups(path)
    right = _run(clocks, path, "stamp", HEAD, "-y", clock=0)
    assert (right.status, "The clock" in right.output) == (0, False)
    wrong = _run(clocks, path, "stamp", HEAD, "-y", clock=-10 * YEAR)
    assert (wrong.status, "earlier than the newest entry of the journal" in wrong.output) == (
        0,
        True,
    )
