"""`db lint`: what it prints, what it exits with, what it writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextcloud_mcp_server.authoring.lint.released import RELEASED_FILE
from nextcloud_mcp_server.authoring.lint.rules import RULES
from nextcloud_mcp_server.schema.history import STRUCTURE_FILE
from tests.authoring.lint.folder import Folder, source, with_sql
from tests.cli.conftest import Command
from tests.support.revisions import ALL, HEAD
from tests.support.scripts import SCRIPTS, used


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A folder of the tests of lint, which the program uses; the command stands beside it."""
    path = tmp_path / "alembic"
    shutil.copytree(SCRIPTS, path, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    with used(path):
        yield Folder(path)


NOTED = "CREATE TABLE x (id INTEGER)"
NUMBER = f"{int(HEAD) + 1}"
NAME = f"20990101_1200_{NUMBER}_add_it.py"


def add(folder: Folder, said: str, **words: str) -> Path:
    """Add a revision that says this."""
    return folder.write(NAME, source(NUMBER, HEAD, with_sql(said), **words))


def test_the_projects_own_are_clean(command: Command) -> None:
    """As nox runs it on this project."""
    done = command("db", "lint", "--strict")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"clean: {len(ALL)} revisions in ")


def test_a_refusal_names_file_line_and_remedy(folder: Folder, command: Command) -> None:
    """One line that an editor follows, one with what to do, a summary, and status 1."""
    add(folder, NOTED, labels="It loses the table.")
    mine, loses, again = f"alembic/versions/{NAME}", RULES["loses-missing"], RULES["not-idempotent"]
    assert command("db", "lint", "--fix").out == (
        f"{mine}:1: refused: "
        'The docstring has no line that begins with "Downgrade loses:". [loses-missing]\n'
        f"    {loses.remedy}\n"
        f"{mine}:15: noted: '{NOTED}' fails if it exists already. [not-idempotent]\n"
        f"    {again.remedy}\n"
        "wrote alembic/structure.json\n"
        f"1 refused, 1 noted: {len(ALL) + 1} revisions in alembic/versions\n"
    )
    assert command("db", "lint").status == 1


def test_a_note_is_refused_when_strict(folder: Folder, command: Command) -> None:
    """Notes alone exit 0, and 1 with --strict, which calls them refused."""
    add(folder, NOTED)
    assert command("db", "lint", "--fix").status == 0
    done = command("db", "lint", "--strict")
    assert (done.status, done.out.count(": refused: "), done.err) == (1, 1, "")


def test_the_structures_are_generated_when_asked(folder: Folder, command: Command) -> None:
    """A file that is old, or in conflict, is told with its line; --fix writes it, once."""
    path = folder.path / STRUCTURE_FILE
    before = path.read_text("utf-8")
    path.write_text(before.replace("\n", "\n<<<<<<< mine\n", 1), "utf-8")
    assert "alembic/structure.json:2: refused: " in command("db", "lint").out
    done = command("db", "lint", "--fix")
    assert (done.status, done.out.splitlines()[0]) == (0, "wrote alembic/structure.json")
    assert path.read_text("utf-8") == before
    assert "wrote" not in command("db", "lint", "--fix").out


def test_a_release_is_kept(folder: Folder, command: Command) -> None:
    """--release adds what is new; from then on an edit is refused, unless it is named."""
    add(folder, "CREATE TABLE IF NOT EXISTS x (id INTEGER)")
    assert command("db", "lint", "--fix").status == 0
    done = command("db", "lint", "--release")
    assert (done.status, done.out.splitlines()[0]) == (0, f"released {NUMBER}")
    assert f'"{NUMBER}": {{' in (folder.path / RELEASED_FILE).read_text("utf-8")
    assert "every revision was released" in command("db", "lint", "--release").out

    folder.edit(NUMBER, "(id INTEGER)", "(id TEXT)")
    assert command("db", "lint", "--fix").out.count("[edited-release]") == 1
    done = command("db", "lint", "--release")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: Nothing was released: lint reports 1 problem. [bad-input]\n")
    done = command("db", "lint", "--release", "--overwrite", NUMBER)
    assert (done.status, done.out.splitlines()[0]) == (0, f"released {NUMBER}")


def test_lint_as_json(folder: Folder, command: Command) -> None:
    """One document with every problem, and what was written."""
    path = add(folder, NOTED)
    document = json.loads(command("db", "lint", "--fix", "--json").out)
    assert Path(document["wrote"]) == folder.path / STRUCTURE_FILE
    assert document["revisions"] == [*ALL, NUMBER]
    assert (document["unreleased"], document["whole"], document["strict"]) == (
        [NUMBER],
        True,
        False,
    )
    (problem,) = document["problems"]
    assert (Path(problem["file"]), problem["line"], problem["rule"]) == (path, 15, "not-idempotent")
    assert problem["refused"] is False
    assert problem.keys() == {"file", "line", "rule", "refused", "message", "remedy"}
    strict = json.loads(command("db", "lint", "--strict", "--json").out)
    assert strict["problems"][0]["refused"] is True


def test_what_a_migration_prints_is_not_the_result(folder: Folder, command: Command) -> None:
    """A print() that somebody left in a migration goes to stderr, and the document stays one."""
    add(folder, NOTED)
    folder.edit(NUMBER, "def upgrade():\n", "print('loaded')\n\ndef upgrade():\n    print('run')\n")
    done = command("db", "lint", "--fix", "--json")
    assert json.loads(done.out)["wrote"]
    assert {"loaded", "run"} <= set(done.err.splitlines())


def test_a_line_that_is_none_is_not_asked(folder: Folder, command: Command) -> None:
    """Where ids collide, the words are still looked at, and it is said that the SQL is not."""
    add(folder, NOTED, labels="")
    folder.write(NAME.replace("0101", "0102"), source(NUMBER, HEAD))
    done = command("db", "lint")
    assert done.status == 1
    assert {"[duplicated-id]", "[loses-missing]"} == {
        line.split()[-1] for line in done.out.splitlines() if line.endswith("]")
    }
    assert done.out.splitlines()[-1].endswith("; what they say was not looked at")


BROKEN = {
    "two ids": lambda folder: folder.write(NAME.replace("0101", "0102"), source(NUMBER, HEAD)),
    "two heads": lambda folder: folder.write(
        NAME.replace("0101", "0102").replace(f"_{NUMBER}_", f"_{int(NUMBER) + 1}_"),
        source(f"{int(NUMBER) + 1}", HEAD),
    ),
    "unknown parent": lambda folder: folder.edit(NUMBER, f'"{HEAD}"', '"555"'),
    "its own parent": lambda folder: folder.edit(NUMBER, f'"{HEAD}"', f'"{NUMBER}"'),
    "no Python": lambda folder: folder.write(NAME, "<<<<<<< mine\n"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", ["history", "show head", "migrate a"])
def test_every_command_tells_a_line_that_is_none(
    folder: Folder, command: Command, kind: str, name: str
) -> None:
    """What needs the revisions in order says where they are not, and which command knows more."""
    add(folder, NOTED)
    BROKEN[kind](folder)
    done = command("db", *name.split(), "-d", "none.db")
    assert (done.status, done.out) == (1, "")
    error, remedy = done.err.splitlines()
    assert error.startswith("error: The revision history is not linear: 2099")
    assert remedy == "remedy: Show the problems with: nextcloud-mcp-server db lint"
    assert command("db", "lint").status == 1


@pytest.mark.parametrize("kind", ["two heads", "no Python"])
def test_a_look_tells_a_line_that_is_none(folder: Folder, command: Command, kind: str) -> None:
    """Where a new revision's structure cannot be found out, `db current` points to lint, too."""
    add(folder, NOTED)
    BROKEN[kind](folder)
    done = command("db", "current", "-d", "none.db")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: The revisions are not one line: ")
    assert done.err.endswith("nextcloud-mcp-server db lint\n")


def test_show_of_a_revision_that_fails(folder: Folder, command: Command) -> None:
    """What a new file raises is one line, and lint knows the place."""
    folder.write(NAME, source(NUMBER, HEAD, "def upgrade():\n    1 / 0\n"))
    done = command("db", "show", "head")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"error: Revision {NUMBER} fails where its SQL is written: division by zero. "
        "[migration-failed]\n"
        "remedy: See where with: nextcloud-mcp-server db lint\n"
    )


def test_an_installed_package_is_only_looked_at(folder: Folder, command: Command) -> None:
    """Outside a checkout lint works, and writes nothing."""
    with used(folder.path.rename(folder.path.with_name("_alembic"))):
        assert command("db", "lint", "--strict").status == 0
        for option in ("--fix", "--release"):
            done = command("db", "lint", option, "--json")
            assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "not-a-checkout")


def test_lint_without_scripts(command: Command, tmp_path: Path) -> None:
    """A folder without revisions is the error that every command gives."""
    (tmp_path / "alembic" / "versions").mkdir(parents=True)
    with used(tmp_path / "alembic"):
        done = command("db", "lint", "--json")
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "no-migrations")


def test_overwriting_belongs_to_a_release(command: Command) -> None:
    """Alone it would mean nothing."""
    assert command("db", "lint", "--overwrite", "101").status == 2


def test_a_file_name_cannot_speak_to_the_terminal(folder: Folder, command: Command) -> None:
    """What a file's name, or its text, holds is printed without anything that a terminal obeys."""
    folder.write("\x1b[31mred\n.py", "")
    add(folder, "SELECT '\x1b[31m'", title="\\x1b[2J")
    done = command("db", "lint")
    assert done.status == 1
    assert "\x1b" not in done.out
