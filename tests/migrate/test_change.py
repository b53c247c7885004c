"""Downgrade and stamp lock, back up and check as a start does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite.backup_files import automatic_backups
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.migrate.change import preview_stamp
from nextcloud_mcp_server.migrate.summary import stamped_lines
from tests.cli.places import execute
from tests.migrate.databases import in_thread, versions
from tests.support import invariants
from tests.support.by_path import downgrade, prepare, read_journal, stamp
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import HEAD, NEXT_ID
from tests.support.shapes import Shape, at, at_head
from tests.support.snapshot import snapshot


@pytest.mark.parametrize("target", ["009", "006", "001", "base"])
def test_a_downgrade_backs_up_and_records_its_target(target: str, path: Path) -> None:
    """The file is at the target, and the backup has the content from before."""
    at_head(path)
    before = snapshot(path)
    change = downgrade(path, target)
    assert (change.before, change.after) == (HEAD, None if target == "base" else target)
    assert versions(path) == ([] if target == "base" else [target])
    assert change.backup is not None
    invariants.same_content(before, snapshot(change.backup))
    assert snapshot(change.backup).versions == [HEAD]


def test_a_database_without_some_columns_is_downgraded(path: Path) -> None:
    """Columns that no release added are added before the downgrade; the grants stay."""
    at("010").narrowed("refresh_tokens", "user_profile", "profile_cached_at").write(path)
    users = {row["user_id"] for row in snapshot(path).rows["refresh_tokens"]}
    assert downgrade(path, "001").after == "001"
    assert prepare(path).after == HEAD
    assert {row["user_id"] for row in snapshot(path).rows["refresh_tokens"]} == users


def test_a_downgrade_confirmed_for_another_revision_is_declined(path: Path) -> None:
    """If the revision has changed since the confirmation, nothing is changed."""
    at("006").write(path)
    with invariants.unchanged(path):
        assert refused(lambda: downgrade(path, "005", agreed_from="005")).code == "declined"


def test_a_missing_database_is_not_created(path: Path) -> None:
    """Every command but an upgrade needs a file, and creates neither it nor its folder."""
    missing = path.parent / "other" / "tokens.db"
    for call in (
        lambda: downgrade(missing),
        lambda: stamp(missing, "001"),
        lambda: back_up(missing),
    ):
        assert refused(call).code == "bad-path"
    assert names(path.parent) == set()


@pytest.mark.parametrize("call", [downgrade, partial(stamp, revision="006")])
def test_a_change_needs_the_lock(call: Callable[..., object], path: Path) -> None:
    """While the lock is held, a downgrade and a stamp time out and change nothing."""
    at("006").write(path)
    with invariants.unchanged(path):
        with guard(path, 0):
            error = in_thread(lambda: refused(lambda: call(path, lock_timeout=0)))
        assert error.code == "lock-timeout"


def test_a_stamp_resolves_several_version_rows(path: Path) -> None:
    """One row replaces several; the result, the backup and its place in the list name them."""
    at("006").recording("006", "005").write(path)
    change = stamp(path, "006")
    assert (change.before, change.after) == ("005, 006", "006")
    assert stamped_lines(change)[0].endswith("(recorded before: 005, 006)")
    assert versions(path) == ["006"]
    assert change.backup is not None
    assert change.backup.name.endswith("-005_006")
    assert automatic_backups(path) == [change.backup]


def test_a_stamp_is_in_the_journal_with_the_rows_before(path: Path) -> None:
    """The entry has every revision that the version table held."""
    at_head(path)
    execute(path, "INSERT INTO alembic_version VALUES ('005')")
    stamp(path, HEAD)
    entries = read_journal(path, 1)
    assert entries
    assert (entries[0].before, entries[0].after) == (f"005, {HEAD}", HEAD)


def test_many_version_rows_make_no_long_name(path: Path) -> None:
    """What does not fit into the name of a backup is not in it, and the backup is made."""
    at("006").recording(*(f"00{number}" for number in range(1, 10)), "010").write(path)
    change = stamp(path, "006")
    assert change.backup is not None
    assert change.backup.name.endswith("-unversioned")


def test_a_stamp_replaces_a_mistyped_revision(path: Path) -> None:
    """A file with a mistyped id can be stamped with the revision of its tables."""
    at("010").recording("10").write(path)
    assert stamp(path, "010").after == "010"
    assert prepare(path).after == HEAD


@pytest.mark.parametrize("recorded", [("999",), (NEXT_ID,), ("010", "999"), ("1b2c3d4e5f60",)])
@pytest.mark.parametrize("revision", ["010", "005", "base", HEAD])
def test_a_file_of_a_newer_release_is_not_stamped(
    recorded: tuple[str, ...], revision: str, path: Path
) -> None:
    """The error is that of a start: it names the release's own downgrade as the way back."""
    if revision == HEAD:
        prepare(path)
        execute(path, f"UPDATE alembic_version SET version_num = '{recorded[-1]}'")
    else:
        at("010").recording(*recorded).write(path)
    with invariants.unchanged(path):
        error = refused(lambda: stamp(path, revision))
    assert error.code == "unknown-revision"
    assert "that release's own: nextcloud-mcp-server db downgrade" in error.remedy


@pytest.mark.parametrize(
    ("tables", "revision", "contradicted"),
    [("006", "006", None), ("006", "003", "006"), ("006", "base", "006"), ("010", "001", "010")],
)
def test_a_stamp_of_another_revision_than_that_of_the_tables_is_known_before(
    tables: str, revision: str, contradicted: str | None, path: Path
) -> None:
    """A preview returns the revision of the tables if the stamp contradicts it."""
    at(tables).recording().write(path)
    assert preview_stamp(connect(path), revision)[1] == contradicted


@pytest.mark.parametrize("revision", ["007", "010"])
def test_a_stamp_that_does_not_match_the_tables_is_refused(revision: str, path: Path) -> None:
    """It is refused if tables are missing, or exist although the revision drops them."""
    at("006").write(path)
    with invariants.unchanged(path):
        assert refused(lambda: stamp(path, revision)).code == "inconsistent"


def test_a_stamp_below_is_written_and_goes_up_again(path: Path) -> None:
    """A lower revision, or none, may be stamped: every upgrade accepts existing objects."""
    for revision, recorded in (("003", ["003"]), ("base", [])):
        file = path.with_name(f"{revision}.db")
        at("006").write(file)
        stamp(file, revision)
        assert versions(file) == recorded
        assert prepare(file).after == HEAD
        assert len(snapshot(file).rows["refresh_tokens"]) == 12


@pytest.mark.parametrize("revision", ["999", "head", "", "-1"])
def test_a_stamp_that_is_no_revision_is_refused(revision: str, path: Path) -> None:
    """Only a revision of this program is recorded."""
    at("006").write(path)
    assert refused(lambda: stamp(path, revision)).code == "unknown-revision"
    assert versions(path) == ["006"]


def test_a_stamp_needs_tables(path: Path) -> None:
    """An empty database is created, not stamped."""
    Shape(versions=()).write(path)
    assert refused(lambda: stamp(path, "001")).code == "bad-input"
