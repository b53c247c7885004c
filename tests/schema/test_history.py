"""The migrations as data: ids from file names, structures from a generated file."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import structures as module
from nextcloud_mcp_server.schema.history import (
    STRUCTURE_FILE,
    dump_structures,
    is_checkout,
    load_history,
    locate_scripts,
)
from nextcloud_mcp_server.schema.structure import Structure
from tests.support.errors import refuses
from tests.support.revisions import KNOWN
from tests.support.scripts import SCRIPTS, add_revision, sql_revision
from tests.support.structures import structures

GENERATE = "nextcloud-mcp-server db lint --fix"

_numbers = count()


def folder_of(parent: Path, *names: str) -> Path:
    """Create a folder of scripts with empty version files."""
    folder = parent / f"scripts{next(_numbers)}"
    (folder / "versions").mkdir(parents=True)
    for name in names:
        (folder / "versions" / name).touch()
    return folder


def test_the_file_matches_the_migrations() -> None:
    """structure.json is exactly the result of running the migrations."""
    history = load_history()
    made = dump_structures(module.structures(history))
    stored = (history.directory / STRUCTURE_FILE).read_text("utf-8")
    assert made == stored, f"structure.json is out of date; generate it: {GENERATE}"


def test_the_file_is_generated_by_one_command(own_scripts: Path) -> None:
    """Writing it again gives the same text; it then also contains a new revision."""
    before = (own_scripts / STRUCTURE_FILE).read_text("utf-8")
    assert module.write_structures() == own_scripts / STRUCTURE_FILE
    assert (own_scripts / STRUCTURE_FILE).read_text("utf-8") == before
    add_revision(own_scripts, sql_revision("CREATE TABLE notes (id INTEGER PRIMARY KEY, b TEXT)"))
    assert load_history().unknown_structures == ("101",)
    module.write_structures()
    assert load_history().unknown_structures == ()
    assert load_history().structure("101").tables["notes"].key == ("id",)


@given(st.dictionaries(st.sampled_from(["001", "002", "003"]), structures(), max_size=3))
def test_structures_are_loaded_as_dumped(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, Structure]
) -> None:
    """Any structures can be dumped and loaded unchanged."""
    folder = folder_of(
        tmp_path_factory.getbasetemp(),
        *(f"20260101_0000_{number}_x.py" for number in ("001", "002", "003")),
    )
    (folder / STRUCTURE_FILE).write_text(dump_structures(made), "utf-8")
    loaded = load_history(folder)
    assert loaded.structures == made
    assert set(loaded.unknown_structures) == {"001", "002", "003"} - made.keys()


def test_a_table_is_written_once_per_version() -> None:
    """A table that did not change between two revisions is written once."""
    all_structures = load_history().structures
    text = dump_structures(all_structures)
    assert text.count('"name": "oauth_clients"') == 1
    assert text.count('"name": "login_flow_sessions"') == 1
    assert text.count('"name": "app_passwords"') == 4


def test_the_ids_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Head is the highest number; the dates of the files do not matter."""
    folder = folder_of(
        tmp_path,
        "20270101_0000_010_ten.py",
        "20260101_0000_1000_thousand.py",
        "20250101_0000_101_hundred_and_one.py",
        "20300101_0000_009_nine.py",
    )
    history = load_history(folder)
    assert history.revisions == ("009", "010", "101", "1000")
    assert history.head == "1000"
    assert "010" in history
    assert "10" not in history


def test_other_files_are_ignored(tmp_path: Path) -> None:
    """A backup of an editor and an empty module are not revisions."""
    folder = folder_of(tmp_path, "20260101_0000_001_x.py", "20260101_0000_002_x.py~", "__init__.py")
    assert load_history(folder).revisions == ("001",)


@pytest.mark.parametrize("name", ["draft.py", "009 (copy).py", "20270101_0000_009b.py"])
def test_a_file_that_alembic_would_run_is_refused(name: str, tmp_path: Path) -> None:
    """Its revision would run although its name is none, also if its id is that of another."""
    with refuses("bad-input", "is not named as a migration is"):
        load_history(folder_of(tmp_path, "20260101_0000_001_x.py", name))


def test_a_lost_version_file_of_an_installed_package_is_named(tmp_path: Path) -> None:
    """Its structure is still in the generated file."""
    installed = shutil.copytree(SCRIPTS, tmp_path / "_alembic")
    next((installed / "versions").glob("*_005_*")).unlink()
    with refuses("no-migrations", "Migration 005 is missing"):
        load_history(installed)


def test_missing_scripts_are_an_error(tmp_path: Path) -> None:
    """An installation without scripts is an error with a code."""
    with pytest.raises(TokenStorageError, match="no migration script") as caught:
        load_history(folder_of(tmp_path))
    assert caught.value.code == "no-migrations"


def test_the_checkouts_scripts_are_found() -> None:
    """In a checkout the scripts are in the folder beside the package."""
    assert locate_scripts() == SCRIPTS
    assert is_checkout()


def test_only_010_drops_a_table() -> None:
    """In the shared history, the only table that is dropped is that of the webhooks."""
    history = load_history()
    for revision in KNOWN:
        dropped = {"registered_webhooks"} if revision >= "010" else set()
        assert history.dropped_before(revision) == dropped


def test_a_revision_without_a_structure_is_run(own_scripts: Path) -> None:
    """The structure of a new revision is found by running it, before it is generated."""
    add_revision(own_scripts, sql_revision("ALTER TABLE app_passwords ADD COLUMN note TEXT"))
    history = module.complete(load_history())
    assert history.unknown_structures == ()
    assert "note" in history.structure("101").tables["app_passwords"].columns
