"""Creating a migration in a checkout, and renumbering one."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.authoring.create import ROWS_FOLDER, write
from nextcloud_mcp_server.authoring.lint import released
from nextcloud_mcp_server.authoring.lint.chain import line_problems, next_number
from nextcloud_mcp_server.authoring.lint.review import review
from nextcloud_mcp_server.authoring.lint.version_files import Script, read_scripts
from nextcloud_mcp_server.authoring.renumber import arrange, renumber
from nextcloud_mcp_server.migrate.structures import write_structures
from nextcloud_mcp_server.migrations import create_migration, upgrade_database
from tests.authoring.lint.folder import CREATE, Folder, source
from tests.support.errors import refused
from tests.support.scripts import SCRIPTS


@pytest.fixture
def folder(own_scripts: Path) -> Folder:
    """Let the program use a checkout with the revisions up to 010."""
    known = {number: one for number, one in released.load(SCRIPTS).items() if int(number) <= 10}
    (own_scripts / released.RELEASED_FILE).write_text(released.dump(known), "utf-8")
    own_scripts.parent.joinpath(*ROWS_FOLDER[:-1]).mkdir(parents=True)
    return Folder(own_scripts)


def add(folder: Folder, moment: str, number: str, below: str, what: str) -> Path:
    """Write a revision that creates a table, with its test rows."""
    rows = folder.path.parent.joinpath(*ROWS_FOLDER, f"rows_{number}_add_{what}.py")
    rows.parent.mkdir(exist_ok=True)
    rows.write_text(f'"""Rows for revision {number}, add {what}."""\n')
    return folder.write(
        f"{moment}_{number}_add_{what}.py",
        source(number, below, CREATE.format(what)).replace(
            '"""\n\nfrom', f'\nRevision ID: {number}\nRevises: {below}\n"""\n\nfrom'
        ),
    )


def line(folder: Folder) -> list[tuple[str, str, str]]:
    """Return id, parent and file name of each revision from 101 on."""
    scripts, problems = read_scripts(folder.versions)
    assert problems == []
    return [(s.id, s.parent, s.path.name) for s in scripts if int(s.id) > 100]


def rules(folder: Folder) -> list[str]:
    """Return the rules that are broken, except for stale-structure."""
    return [p.rule for p in review(folder.path).problems if p.rule != "stale-structure"]


def test_a_migration_comes_with_its_rows(folder: Folder) -> None:
    """The file of test rows is named after the migration, is valid Python, and is empty."""
    made = write("add user preferences")
    assert made.script.name.endswith("_101_add_user_preferences.py")
    assert made.rows is not None
    assert made.rows == folder.path.parent.joinpath(
        *ROWS_FOLDER, "rows_101_add_user_preferences.py"
    )
    text = made.rows.read_text("utf-8")
    assert text.startswith('"""Rows for revision 101, add user preferences: ')
    assert runpy.run_path(str(made.rows))["ROWS"] == {}


def test_a_message_may_hold_anything(folder: Folder) -> None:
    """Quotes, dollars and backslashes in a message do not break the files."""
    made = write('add "$x" \\ and """ more')
    assert made.rows is not None
    compile(made.rows.read_text("utf-8"), "rows", "exec")
    compile(made.script.read_text("utf-8"), "script", "exec")


def test_without_the_tests_there_are_no_rows(own_scripts: Path) -> None:
    """In a checkout without tests only the migration is created."""
    made = write("add user preferences")
    assert made.rows is None
    assert made.script.parent == own_scripts / "versions"


def test_a_migration_without_its_rows_is_taken_away(folder: Folder) -> None:
    """If the test rows cannot be written, no revision is left."""
    versions = sorted(folder.versions.glob("*.py"))
    rows = folder.path.parent.joinpath(*ROWS_FOLDER)
    rows.write_text("in the way")
    refused(lambda: write("add a table"), "io-error", str(rows))
    assert sorted(folder.versions.glob("*.py")) == versions
    rows.unlink()
    assert write("add a table").script.name.endswith("_101_add_a_table.py")


def test_a_new_migration_is_refused_until_it_is_written(folder: Folder) -> None:
    """The parts of the template that are not filled in are the only problems."""
    write("add user preferences")
    assert set(rules(folder)) == {"loses-missing", "empty-downgrade", "unfinished"}


def test_nothing_is_added_to_a_line_that_is_none(folder: Folder) -> None:
    """No migration is created while two have the same id."""
    add(folder, "20261201_0900", "101", "010", "a")
    add(folder, "20261202_0900", "101", "010", "b")
    before = sorted(folder.versions.iterdir())
    refused(lambda: create_migration("add c"), "bad-input", "20261202_0900_101_add_b.py:")
    assert sorted(folder.versions.iterdir()) == before


@pytest.mark.parametrize("given_as", ["name", "path", "stem"])
def test_two_people_made_the_same_id(folder: Folder, given_as: str, tmp_path: Path) -> None:
    """Lint shows the command, which gives the file the next id, its parent and its rows."""
    add(folder, "20261201_0900", "101", "010", "a")
    second = add(folder, "20261202_0900", "101", "010", "b")
    (found,) = [p for p in review(folder.path).problems if p.rule == "duplicated-id"]
    assert found.path == second
    assert found.remedy.endswith(f"db migrate --renumber {second.name}")

    renumber({"name": second.name, "path": str(second), "stem": second.stem}[given_as])

    assert line(folder) == [
        ("101", "010", "20261201_0900_101_add_a.py"),
        ("102", "101", "20261202_0900_102_add_b.py"),
    ]
    text = folder.file("102").read_text("utf-8")
    assert "\nRevision ID: 102\nRevises: 101\n" in text
    rows = folder.path.parent.joinpath(*ROWS_FOLDER)
    assert [p.name for p in sorted(rows.iterdir())] == ["rows_101_add_a.py", "rows_102_add_b.py"]
    assert "Rows for revision 102, add b" in (rows / "rows_102_add_b.py").read_text()
    assert rules(folder) == []
    write_structures()
    assert upgrade_database(tmp_path / "tokens.db").after == "102"


def test_what_one_person_built_on_it_follows(folder: Folder) -> None:
    """Two migrations of one person are renumbered in their order, after the other one."""
    add(folder, "20261201_0900", "101", "010", "yours")
    first = add(folder, "20261202_0900", "101", "010", "mine")
    add(folder, "20261203_0900", "102", "101", "mine_too")
    renumber(first.name)
    assert [(number, name[14:]) for number, _, name in line(folder)] == [
        ("101", "101_add_yours.py"),
        ("102", "102_add_mine_too.py"),
        ("103", "103_add_mine.py"),
    ]
    renumber("102")
    assert line(folder) == [
        ("101", "010", "20261201_0900_101_add_yours.py"),
        ("102", "101", "20261203_0900_102_add_mine.py"),
        ("103", "102", "20261203_0900_103_add_mine_too.py"),
    ]
    assert rules(folder) == []


def test_a_second_head_is_put_at_the_end(folder: Folder) -> None:
    """A second head is moved to the end of the history."""
    add(folder, "20261201_0900", "101", "010", "a")
    add(folder, "20261202_0900", "102", "010", "b")
    assert rules(folder) == ["second-head"]
    renumber("102")
    assert [parent for _, parent, _ in line(folder)] == ["010", "101"]
    assert rules(folder) == []


def test_what_is_at_the_end_stays(folder: Folder) -> None:
    """Nothing is written if nothing changes."""
    path = add(folder, "20261201_0900", "101", "010", "a")
    before = path.stat()
    assert renumber(path.name) == ()
    assert path.stat() == before


@pytest.mark.parametrize("name", ["revision", "down_revision"])
def test_a_wrong_id_or_parent_is_corrected(folder: Folder, name: str) -> None:
    """A wrong id or parent in the file is corrected."""
    path = add(folder, "20261201_0900", "101", "010", "a")
    right = path.read_text("utf-8")
    value = {"revision": "101", "down_revision": "010"}[name]
    folder.write(path.name, right.replace(f'\n{name} = "{value}"', f'\n{name} = "555"'))
    assert rules(folder) == [{"revision": "revision-id", "down_revision": "broken-chain"}[name]]
    renumber(path.name)
    assert path.read_text("utf-8") == right


def test_a_released_revision_keeps_its_id(folder: Folder) -> None:
    """A released revision keeps its id; of two files with that id the newer one moves."""
    shutil.copy(SCRIPTS / released.RELEASED_FILE, folder.path / released.RELEASED_FILE)
    first = add(folder, "20261123_1609", "101", "010", "a")
    second = add(folder, "20261202_0900", "101", "010", "b")
    for name in (first.name, "010", "001"):
        assert "is released" in refused(lambda name=name: renumber(name)).message  # type: ignore[misc]
    renumber(second.name)
    assert [number for number, _, _ in line(folder)] == ["101", "102"]
    assert first.exists()


def test_a_shared_revision_never_moves(folder: Folder) -> None:
    """The revisions that every release has keep their id, even if no file records a release."""
    (folder.path / "released.json").unlink(missing_ok=True)
    assert "is released" in refused(lambda: renumber("010")).message


@pytest.mark.parametrize("named", ["999", "nothing.py"])
def test_an_unknown_revision_is_refused(folder: Folder, named: str) -> None:
    """A name without a revision is an error."""
    assert refused(lambda: renumber(named)).code == "unknown-revision"
    assert folder.file("010").exists()


def test_an_id_of_two_files_names_neither(folder: Folder) -> None:
    """An id of two files is an error."""
    add(folder, "20261201_0900", "101", "010", "a")
    add(folder, "20261202_0900", "101", "010", "b")
    error = refused(lambda: renumber("101"), "bad-input")
    assert "20261201_0900_101_add_a.py and 20261202_0900_101_add_b.py" in error.message


def test_a_file_that_cannot_be_read_stops_it(folder: Folder) -> None:
    """A merge conflict in a file, or in released.json, is an error."""
    add(folder, "20261201_0900", "101", "010", "a")
    (folder.path / "released.json").write_text("<<<<<<<")
    assert "released.json cannot be read" in refused(lambda: renumber("101")).message
    folder.write("20261202_0900_102_b.py", "<<<<<<<\n")
    assert "20261202_0900_102_b.py" in refused(lambda: renumber("101")).message


def test_an_installed_package_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package is not changed."""
    monkeypatch.setattr("nextcloud_mcp_server.authoring.renumber.is_checkout", lambda: False)
    assert refused(lambda: renumber("101")).code == "not-a-checkout"


@pytest.fixture(scope="module")
def model() -> Script:
    """Read a version file, as a model for others."""
    scripts, _ = read_scripts(SCRIPTS / "versions")
    return scripts[0]


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(101, 112)), max_size=8, unique=True),
    st.integers(0, 3),
)
def test_any_collection_becomes_a_line(
    model: Script, collection: Sequence[tuple[int, int]], count: int
) -> None:
    """Any collision of ids and dates becomes a linear history; fixed revisions keep their id."""
    field = [_script(model, number, f"20251217_{number:04}") for number in range(1, 11)]
    made = sorted((number, f"2026{moment:05}"[:8] + "_0000") for moment, number in collection)
    fixed = field + [_script(model, 101 + n, f"20260101_{n:04}") for n in range(count)]
    # A folder holds no two files of one name.
    loose = [_script(model, *one, slug=f"y{n}") for n, one in enumerate(made)]
    places = arrange([*fixed, *loose], fixed)
    assert [place.script for place in places] == [*fixed, *loose]
    numbers = [int(place.id) for place in places]
    assert numbers[: len(fixed)] == [int(script.id) for script in fixed]
    for below, above in pairwise(places):
        assert int(above.id) == next_number(int(below.id))
        assert above.parent == below.id
        assert above.moment >= below.moment
    arranged = [_script(model, int(p.id), p.moment, p.parent) for p in places]
    assert list(line_problems(arranged)) == []


def _script(
    model: Script, number: int, moment: str, parent: str | None = None, slug: str = "x"
) -> Script:
    values = {"revision": (f"{number:03}", 1), "down_revision": (parent, 1)}
    path = model.path.with_name(f"{moment}_{number:03}_{slug}.py")
    return Script(path, moment, f"{number:03}", slug, model.tree, values, {})
