"""Edits of released revisions."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable

import pytest

from nextcloud_mcp_server.authoring.lint import released
from nextcloud_mcp_server.authoring.lint.review import release, review
from nextcloud_mcp_server.migrate import structures
from nextcloud_mcp_server.schema.history import load_history
from tests.authoring.lint.folder import HERE, Folder, here, with_sql
from tests.support.errors import refused, refuses
from tests.support.revisions import KNOWN
from tests.support.scripts import SCRIPTS

ROWS = """SCOPES = ("body", "id")


def upgrade():
    for column in SCOPES:
        op.execute(f"UPDATE t001 SET {column} = {column} WHERE {column} = 'a'")


def downgrade():
    \"\"\"Leave the rows: nothing was changed.\"\"\"
    op.execute("UPDATE t001 SET body = 'a' WHERE body IS NULL")
"""

CODE = """def upgrade():
    if not op.get_context().as_sql:
        for (key,) in op.get_bind().exec_driver_sql("SELECT id FROM t001").all():
            op.execute(f"UPDATE t001 SET body = 'x' WHERE id = {key} AND body = 'a'")


def downgrade():
    op.execute("UPDATE t001 SET body = 'a' WHERE body = 'x'")
"""
LABELS = "Upgrade changes: the bodies.\nDowngrade loses: nothing."


def released_with_data(folder: Folder) -> None:
    """Add a revision with data steps, and one whose code needs a connection."""
    folder.add("003", "002", ROWS, labels=LABELS)
    folder.add("004", "003", CODE, labels=LABELS)
    folder.release()


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        ("001", '"""Add a table', '"""Add the table of notes'),
        ("001", "Downgrade loses: the table.", "Downgrade loses: every note."),
        (
            "001",
            "def upgrade() -> None:\n",
            'def upgrade():\n    """Add it."""\n\n    # a comment\n',
        ),
        ("001", "(id INTEGER PRIMARY KEY, body", "(\\n  id INTEGER PRIMARY KEY, -- a\\n  body"),
        ("001", "def upgrade", "HELPER = 1\n\n\ndef upgrade"),
        ("003", "SCOPES", "COLUMNS"),
        ("004", "def upgrade():\n", 'def upgrade() -> None:\n    """Do it."""  # in a loop\n'),
        ("003", "    for column in SCOPES:", "    for column in [*SCOPES]:"),
    ],
)
def test_formatting_may_change(folder: Folder, number: str, old: str, new: str) -> None:
    """Docstrings, comments, the layout of SQL and refactorings are no edits."""
    released_with_data(folder)
    folder.edit(number, old, new)
    assert folder.problems() == []


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        ("001", "body TEXT", "body TEXT NOT NULL"),
        ("001", "TABLE IF NOT EXISTS t001", "TABLE IF NOT EXISTS T001"),
        ("003", "    for column in SCOPES:", "    for column in SCOPES[:1]:"),
        ("003", "column} = {column} WHERE {column} = 'a'\"", 'column} = 1 WHERE {column} = 2"'),
        ("003", "= 'a'\")", "= 'a '\")"),
        ("003", "SET body = 'a' WHERE", "SET body = 'b' WHERE"),
        ("004", "body = 'x'", "body = 'y'"),
        ("004", "SELECT id FROM t001", "SELECT id FROM t001 LIMIT 1"),
        ("004", " AND body = 'a'", ""),
        ("004", "def upgrade", 'DELETES_ROWS_FROM = ("t001",)\n\n\ndef upgrade'),
        ("002", "def upgrade", 'DELETES_ROWS_FROM = ("t001",)\n\n\ndef upgrade'),
    ],
)
def test_meaning_may_not_change(folder: Folder, number: str, old: str, new: str) -> None:
    """Changes of tables, data steps, code and DELETES_ROWS_FROM are edits."""
    released_with_data(folder)
    folder.edit(number, old, new)
    found = [p for p in folder.review().problems if p.rule == "edited-release"]
    assert {p.path for p in found} == {folder.file(number)}


def test_an_edit_is_reported_with_its_statement(folder: Folder) -> None:
    """The report names the line and the statement, and the remedy shows all of them."""
    folder.edit(
        "001",
        'body TEXT)")',
        f'body TEXT)")\n    op.execute("CREATE INDEX IF NOT EXISTS i ON t001(body)")  # {HERE}',
    )
    (found,) = [p for p in folder.review().problems if p.rule == "edited-release"]
    assert found.line == here(found.path)
    assert found.message == (
        "It is released, and its upgrade() now sends "
        "'CREATE INDEX IF NOT EXISTS i ON t001(body)' for sqlite."
    )
    assert found.remedy.endswith("nextcloud-mcp-server db show 001")


def test_a_removed_statement_is_reported(folder: Folder) -> None:
    """A removed statement is reported at its function."""
    folder.edit("001", '    op.execute("DROP', '    str("DROP')
    found = [p for p in folder.review().problems if p.rule == "edited-release"]
    assert [p.message for p in found] == [
        "It is released, and its downgrade() no longer sends a statement for sqlite."
    ]
    assert "def downgrade" in found[0].path.read_text().splitlines()[found[0].line - 1]


@pytest.mark.parametrize("number", ["001", "002", "003"])
def test_a_missing_file_is_reported_once(folder: Folder, number: str) -> None:
    """A missing file of a released revision is the only problem, with a remedy."""
    released_with_data(folder)
    folder.file(number).unlink()
    (found,) = folder.problems()
    assert found.rule == "deleted-release"
    assert found.message == f"Revision {number} is released, and its file is missing."
    assert "git checkout HEAD -- FILE" in found.remedy


def test_beside_a_missing_file_a_broken_chain_is_reported(folder: Folder) -> None:
    """Beside a missing file a broken chain is reported; an unreadable file is not missing."""
    released_with_data(folder)
    folder.file("002").unlink()
    folder.edit("004", 'down_revision = "003"', 'down_revision = "001"')
    assert [p.rule for p in folder.problems()] == ["deleted-release", "broken-chain"]
    folder.edit("004", "def upgrade", "def def upgrade")
    assert "deleted-release" not in [p.rule for p in folder.problems()]


def test_a_quick_edit_is_seen(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of equal size in the same second is found: bytecode is not used."""
    path = folder.file("001")
    moment = path.stat()
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    structures.structures(load_history(folder.path))
    assert (folder.versions / "__pycache__").is_dir()
    folder.edit("001", "body TEXT", "BODY TEXT")
    os.utime(path, ns=(moment.st_atime_ns, moment.st_mtime_ns))
    assert path.stat().st_size == moment.st_size
    assert "edited-release" in [problem.rule for problem in folder.problems()]


def test_lint_leaves_nothing_behind(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lint writes no bytecode into the folder."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    before = sorted(folder.path.rglob("*"))
    folder.review()
    assert sorted(folder.path.rglob("*")) == before


def test_an_edit_for_one_engine_is_seen(folder: Folder) -> None:
    """An edit of the SQL for PostgreSQL alone is reported."""
    folder.edit(
        "001",
        "def upgrade() -> None:\n",
        "def upgrade() -> None:\n    if op.get_context().dialect.name == 'postgresql':\n"
        "        op.execute(\"UPDATE t002 SET body = '' WHERE body IS NULL\")\n",
    )
    messages = [p.message for p in folder.review().problems if p.rule == "edited-release"]
    assert len(messages) == 1
    assert messages[0].endswith("for postgresql.")


def test_a_release_keeps_what_is_new_and_overwrites_nothing(folder: Folder) -> None:
    """A release adds the new revisions, and keeps the old entries word for word."""
    path = folder.path / released.RELEASED_FILE
    before = path.read_text("utf-8")
    assert release(folder.review()) == ()
    assert path.read_text("utf-8") == before
    folder.add("003", "002")
    folder.release()
    assert path.read_text("utf-8").startswith(before.rstrip("}\n").rstrip())
    assert [*json.loads(path.read_text("utf-8"))] == ["001", "002", "003"]


def test_an_edit_is_released_only_when_it_is_named(folder: Folder) -> None:
    """Only a named revision is overwritten, and only if there is no other problem."""
    folder.edit("001", "body TEXT", "body TEXT NOT NULL")
    folder.edit("002", "body TEXT", "body TEXT NOT NULL")
    before = (folder.path / released.RELEASED_FILE).read_bytes()
    for named in ((), ("001",), ("002",), ("009", "001", "002")):
        with refuses("bad-input"):
            folder.release() if not named else release(folder.review(), named)
        assert (folder.path / released.RELEASED_FILE).read_bytes() == before
    assert release(folder.review(), ("001", "002")) == ("001", "002")
    assert folder.review().problems == ()


def test_an_edit_that_is_named_excuses_nothing_else(folder: Folder) -> None:
    """Another problem in the overwritten file is an error."""
    folder.edit("001", "IF NOT EXISTS ", "")
    assert "not-idempotent" in [problem.rule for problem in folder.problems()]
    assert refused(lambda: release(folder.review(), ("001",))).code == "bad-input"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: folder.add("003", "002", with_sql("UPDATE t001 SET body = 1")),
        lambda folder: folder.add("003", "002", labels=""),
        lambda folder: folder.add("003", "002"),
    ],
    ids=["noted", "refused", "stale-structure"],
)
def test_nothing_wrong_is_released(folder: Folder, spoil: Callable[[Folder], object]) -> None:
    """A revision with an error or a note is not released."""
    spoil(folder)
    refused(lambda: release(folder.review()), text="Nothing was released")
    assert "003" not in released.load(folder.path)


def test_any_other_content_of_the_file_is_reported(folder: Folder) -> None:
    """Any other content of the file is reported as a problem."""
    for text in ("[]", '{"001": 1}', '{"001": {}}', '{"001": {"sqlite": {}}}', "null", ""):
        (folder.path / released.RELEASED_FILE).write_text(text)
        assert [p.rule for p in folder.review().problems] == ["released-file"], text


def test_what_is_dumped_is_loaded(folder: Folder) -> None:
    """A written file is read back unchanged, with one line per dialect."""
    known = released.load(folder.path)
    text = (folder.path / released.RELEASED_FILE).read_text("utf-8")
    assert released.dump(known) == text
    assert len(text.splitlines()) == 2 + 5 * len(known)


@pytest.mark.parametrize(
    ("code", "hidden"),
    [
        ("op.execute('a')", False),
        ("op.get_context().opts['guards']", False),
        ("op.get_context().dialect.name", False),
        ("guards.create_table('a')", False),
        ("guards.something_new('a', lambda rows: rows)", True),
        ("op.get_bind()", True),
        ("op.run_async(None)", True),
        ("op.batch_alter_table('a')", True),
        ("helper(op)", True),
        ("x = op", True),
        ("op.get_context().connection", True),
        ("context = op.get_context()", True),
        ("from alembic import context", True),
        ("from alembic import op as o", True),
        ("import alembic.op", True),
        ("getattr(op, 'get_bind')()", True),
    ],
)
def test_code_that_hides_something_counts(code: str, hidden: bool) -> None:
    """Code is digested unless offline mode shows all its statements."""
    tree = ast.parse(f"from alembic import op\n\n\ndef upgrade():\n    {code}\n")
    assert bool(released.code_digest(tree)) is hidden


def test_the_projects_releases_are_in_its_file() -> None:
    """Each released revision has digests, and lint reports no problem."""
    known = released.load(SCRIPTS)
    assert set(KNOWN) <= set(known)
    assert review(SCRIPTS).problems == ()
