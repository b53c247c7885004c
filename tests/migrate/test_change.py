"""A downgrade and a stamp that a person asks for by name are as careful as a start."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.maintenance.backup import back_up
from tests.support import invariants
from tests.support.by_path import downgrade, prepare, stamp
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.shapes import Shape, at, at_head
from tests.support.snapshot import snapshot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where this test's database lies; nothing else is in its folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "tokens.db"


def versions(path: Path) -> list[object]:
    """The version rows of a file."""
    return snapshot(path).versions


@pytest.mark.parametrize("target", ["009", "006", "001", "base"])
def test_a_downgrade_backs_up_and_records_where_it_ends(target: str, path: Path) -> None:
    """The file is at the target, and the backup beside it is what it was before."""
    at_head(path)
    before = snapshot(path)
    change = downgrade(path, target)
    assert (change.before, change.after) == (HEAD, None if target == "base" else target)
    assert versions(path) == ([] if target == "base" else [target])
    assert change.backup is not None
    invariants.same_content(before, snapshot(change.backup))
    assert snapshot(change.backup).versions == [HEAD]


def test_a_narrow_file_goes_down_as_well(path: Path) -> None:
    """A file that lacks columns which releases never added is mended before it goes down."""
    at("010").narrowed("refresh_tokens", "user_profile", "profile_cached_at").write(path)
    assert downgrade(path, "006").after == "006"
    assert prepare(path).after == HEAD


def test_down_and_up_again_keeps_every_grant(path: Path) -> None:
    """To 001 and back to head, the grants are the ones that were there."""
    at_head(path)
    before = snapshot(path).rows["refresh_tokens"]
    downgrade(path, "001")
    prepare(path)
    assert snapshot(path).rows["refresh_tokens"] == before


def test_a_downgrade_that_was_agreed_to_for_another_revision_is_declined(path: Path) -> None:
    """What a person agreed to lose is not what would be lost any more: nothing happens."""
    at("006").write(path)
    before = invariants.disk(path)
    assert refused(lambda: downgrade(path, "005", agreed_from="005")).code == "declined"
    invariants.untouched(before, invariants.disk(path))


def test_nothing_is_made_where_no_database_is(path: Path) -> None:
    """Every command but an upgrade needs a file, and makes neither it nor its folder."""
    missing = path.parent / "other" / "tokens.db"
    for call in (
        lambda: downgrade(missing),
        lambda: stamp(missing, "001"),
        lambda: back_up(missing),
    ):
        assert refused(call).code == "bad-path"
    assert names(path.parent) == set()


@pytest.mark.parametrize("busy", ["downgrade", "stamp"])
def test_it_waits_for_the_lock_like_a_start(busy: str, path: Path) -> None:
    """While a start holds the lock, a downgrade and a stamp time out and change nothing."""
    at("006").write(path)
    before = invariants.disk(path)
    codes: list[str] = []

    def ask() -> None:
        call = {
            "downgrade": lambda: downgrade(path, lock_timeout=0),
            "stamp": lambda: stamp(path, "006", lock_timeout=0),
        }[busy]
        codes.append(refused(call).code)

    with guard(path, 0):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert codes == ["lock-timeout"]
    invariants.untouched(before, invariants.disk(path))


def test_a_stamp_resolves_several_version_rows(path: Path) -> None:
    """The way out of rows that disagree is to say which is true; it is backed up."""
    at("006").recording("005", "006").write(path)
    change = stamp(path, "006")
    assert (change.before, change.after) == (None, "006")
    assert versions(path) == ["006"]
    assert change.backup is not None


def test_a_stamp_takes_a_file_back_from_an_unknown_revision(path: Path) -> None:
    """A file that a newer program recorded is stamped with what its tables are."""
    at("010").recording("999").write(path)
    assert stamp(path, "010").after == "010"
    assert prepare(path).after == HEAD


@pytest.mark.parametrize("revision", ["007", "010"])
def test_a_stamp_that_the_tables_deny_is_refused(revision: str, path: Path) -> None:
    """A revision whose tables are not there, or that has dropped some that are, is not written."""
    at("006").write(path)
    before = invariants.disk(path)
    assert refused(lambda: stamp(path, revision)).code == "inconsistent"
    invariants.untouched(before, invariants.disk(path))


def test_a_stamp_below_is_written_and_goes_up_again(path: Path) -> None:
    """Stamping a lower revision, or none, is allowed: every revision passes what is there."""
    for revision, recorded in (("003", ["003"]), ("base", [])):
        file = path.with_name(f"{revision}.db")
        at("006").write(file)
        stamp(file, revision)
        assert versions(file) == recorded
        assert prepare(file).after == HEAD
        assert len(snapshot(file).rows["refresh_tokens"]) == 12


@pytest.mark.parametrize("revision", ["999", "head", "", "-1"])
def test_a_stamp_that_is_no_revision_is_refused(revision: str, path: Path) -> None:
    """Only a revision of this program is ever recorded."""
    at("006").write(path)
    assert refused(lambda: stamp(path, revision)).code == "unknown-revision"
    assert versions(path) == ["006"]


def test_a_stamp_needs_tables(path: Path) -> None:
    """An empty database is created, not stamped."""
    Shape(versions=()).write(path)
    assert refused(lambda: stamp(path, "001")).code == "bad-input"
