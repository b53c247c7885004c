"""`db lint`, and the commands that need a linear history."""

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
    """A copy of the migrations, which the program uses, below the current folder."""
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


def unreleased() -> list[str]:
    """Return the revisions of this checkout that are in no release."""
    released = json.loads((SCRIPTS / RELEASED_FILE).read_text("utf-8"))
    return [revision for revision in ALL if revision not in released]


def test_the_projects_own_are_clean(command: Command) -> None:
    """`db lint --strict` finds nothing in this project's own migrations."""
    done = command("db", "lint", "--strict")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"clean: {len(ALL)} revisions in ")


def test_a_refusal_names_file_line_and_remedy(folder: Folder, command: Command) -> None:
    """Each problem has its file, line, rule and remedy; the exit status is 1."""
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
    """Notes alone exit 0, and 1 with --strict, which refuses them."""
    add(folder, NOTED)
    assert command("db", "lint", "--fix").status == 0
    done = command("db", "lint", "--strict")
    assert (done.status, done.out.count(": refused: "), done.err) == (1, 1, "")


def test_fix_regenerates_the_structures(folder: Folder, command: Command) -> None:
    """An outdated structure.json, or one with a merge conflict, is refused; --fix writes it."""
    path = folder.path / STRUCTURE_FILE
    before = path.read_text("utf-8")
    path.write_text(before.replace("\n", "\n<<<<<<< mine\n", 1), "utf-8")
    assert "alembic/structure.json:2: refused: " in command("db", "lint").out
    done = command("db", "lint", "--fix")
    assert (done.status, done.out.splitlines()[0]) == (0, "wrote alembic/structure.json")
    assert path.read_text("utf-8") == before
    assert "wrote" not in command("db", "lint", "--fix").out


def test_a_release_is_recorded(folder: Folder, command: Command) -> None:
    """--release records new revisions; a later edit is refused, unless --overwrite names it."""
    add(folder, "CREATE TABLE IF NOT EXISTS x (id INTEGER)")
    assert command("db", "lint", "--fix").status == 0
    done = command("db", "lint", "--release")
    assert (done.status, done.out.splitlines()[0]) == (
        0,
        f"released {', '.join([*unreleased(), NUMBER])}",
    )
    assert f'"{NUMBER}": {{' in (folder.path / RELEASED_FILE).read_text("utf-8")
    assert "every revision was released" in command("db", "lint", "--release").out
    folder.edit(NUMBER, "(id INTEGER)", "(id TEXT)")
    assert command("db", "lint", "--fix").out.count("[edited-release]") == 1
    done = command("db", "lint", "--release", "--overwrite", NUMBER)
    assert (done.status, done.out.splitlines()[0]) == (0, f"released {NUMBER}")


def test_lint_as_json(folder: Folder, command: Command) -> None:
    """The document has every problem, and the file that was written."""
    path = add(folder, NOTED)
    document = json.loads(command("db", "lint", "--fix", "--json").out)
    assert Path(document["wrote"]) == folder.path / STRUCTURE_FILE
    assert document["revisions"] == [*ALL, NUMBER]
    assert (document["unreleased"], document["whole"], document["strict"]) == (
        [*unreleased(), NUMBER],
        True,
        False,
    )
    (problem,) = document["problems"]
    assert (Path(problem["file"]), problem["line"], problem["rule"]) == (path, 15, "not-idempotent")
    assert problem["refused"] is False
    assert problem.keys() == {"file", "line", "rule", "refused", "message", "remedy"}
    strict = json.loads(command("db", "lint", "--strict", "--json").out)
    assert strict["problems"][0]["refused"] is True


def test_a_history_with_equal_ids_is_checked_in_part(folder: Folder, command: Command) -> None:
    """If two ids are equal, the docstrings are still checked, and the statements are not."""
    add(folder, NOTED, labels="")
    folder.write(NAME.replace("0101", "0102"), source(NUMBER, HEAD))
    done = command("db", "lint")
    assert done.status == 1
    assert {"[duplicated-id]", "[loses-missing]"} == {
        line.split()[-1] for line in done.out.splitlines() if line.endswith("]")
    }
    assert done.out.splitlines()[-1].endswith("; their statements were not checked")


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
def test_a_broken_history_is_an_error(
    folder: Folder, command: Command, kind: str, name: str
) -> None:
    """Every command that needs a linear history names the file, and `db lint` as the remedy."""
    add(folder, NOTED)
    BROKEN[kind](folder)
    place = () if name.startswith(("show", "migrate")) else ("-d", "none.db")
    done = command("db", *name.split(), *place)
    assert (done.status, done.out) == (1, "")
    error, remedy = done.err.splitlines()
    assert error.startswith("error: The revision history is not linear: 2099")
    assert remedy == "remedy: Show the problems with: nextcloud-mcp-server db lint"
    assert command("db", "lint").status == 1


@pytest.mark.parametrize("kind", ["two heads", "no Python"])
def test_current_with_a_broken_history(folder: Folder, command: Command, kind: str) -> None:
    """If the structure of a new revision is not known, `db current` needs a linear history too."""
    add(folder, NOTED)
    BROKEN[kind](folder)
    done = command("db", "current", "-d", "none.db")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: The revision history is not linear: ")
    assert done.err.endswith("nextcloud-mcp-server db lint\n")


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_show_of_a_recreation(dialect: str, folder: Folder, command: Command) -> None:
    """Its statements depend on a database: one full stop, and the remedy runs it on a copy."""
    body = (
        "def upgrade():\n"
        "    op.get_context().opts['guards'].recreate_table(\n"
        "        'audit_logs', sa.Column('id', sa.Integer, primary_key=True))\n"
    )
    imports = "import sqlalchemy as sa\nfrom alembic import op\n"
    folder.write(NAME, source(NUMBER, HEAD, f"{imports}{body}"))
    done = command("db", "show", "head", "--dialect", dialect)
    error, remedy = done.err.splitlines()
    assert "recreate_table: audit_logs is recreated from what the database contains" in error
    assert ".." not in error.replace("...", "")
    assert remedy.endswith(f": nextcloud-mcp-server db upgrade {NUMBER} --dry-run -d PATH")


def test_show_of_a_revision_that_fails(folder: Folder, command: Command) -> None:
    """An exception in a new migration is printed as one line, with `db lint` as the remedy."""
    folder.write(NAME, source(NUMBER, HEAD, "def upgrade():\n    1 / 0\n"))
    done = command("db", "show", "head")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"error: Revision {NUMBER} fails while its SQL is generated: division by zero. "
        "[migration-failed]\n"
        "remedy: Find the line with: nextcloud-mcp-server db lint\n"
    )


def test_an_installed_package_is_not_changed(folder: Folder, command: Command) -> None:
    """Outside a checkout lint works, and --fix and --release are refused."""
    with used(folder.path.rename(folder.path.with_name("_alembic"))):
        assert command("db", "lint", "--strict").status == 0
        for option in ("--fix", "--release"):
            done = command("db", "lint", option, "--json")
            assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "not-a-checkout")


def test_control_characters_of_a_migration_are_escaped(folder: Folder, command: Command) -> None:
    """Control characters in the name or the text of a file are escaped."""
    folder.write("\x1b[31mred\n.py", "")
    add(folder, "SELECT '\x1b[31m'", title="\\x1b[2J")
    done = command("db", "lint")
    assert done.status == 1
    assert "\x1b" not in done.out
