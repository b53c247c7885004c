"""Migrations that lint accepts: the documented examples and careful ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nextcloud_mcp_server.authoring.lint.rules import refused
from tests.authoring.lint.folder import Folder, source
from tests.migrations.test_examples import ADD_A_TABLE, RECREATE_A_TABLE

MISSION = Path(__file__).parents[3].parent / "shared" / "mission.md"

#: The table that the second example makes again.
GRANTS = """def upgrade():
    op.execute(\"\"\"CREATE TABLE IF NOT EXISTS refresh_tokens (user_id TEXT PRIMARY KEY,
    encrypted_token TEXT, expires_at INTEGER, created_at INTEGER NOT NULL)\"\"\")


def downgrade():
    op.execute("DROP TABLE IF EXISTS refresh_tokens")
"""

#: The example has no downgrade; this one says why nothing is undone.
KEEPS = 'def downgrade():\n    """Leave the column: earlier releases do not read it."""\n'


def add(folder: Folder, number: str, below: str, example: str) -> list[str]:
    """Add an example, and return the rules that it breaks."""
    path = folder.write(f"20260301_1200_{number}_x.py", source(number, below, example))
    found = [problem for problem in folder.problems() if problem.path == path]
    assert not refused(found, strict=False), found
    return sorted({problem.rule for problem in found})


def test_the_example_that_adds_a_table_passes(folder: Folder) -> None:
    """The example has no error; as a release it would have a note."""
    assert add(folder, "003", "002", ADD_A_TABLE) == ["not-idempotent"]


def test_the_example_that_makes_a_table_again_passes(folder: Folder) -> None:
    """The recreation is recognised: it is neither a drop nor a change of rows."""
    assert add(folder, "003", "002", GRANTS) == []
    recreation = RECREATE_A_TABLE.partition("def downgrade")[0]
    found = add(folder, "004", "003", recreation + KEEPS)
    assert found == ["dialect-only", "not-idempotent"]


def test_the_examples_are_those_of_the_mission() -> None:
    """Each statement of the mission's examples is in the examples here, word for word."""
    if not MISSION.is_file():
        pytest.skip("the mission is not here")
    blocks = re.findall(r"```python\n(.*?)```", MISSION.read_text("utf-8"), re.DOTALL)
    for block, example in zip(blocks, (ADD_A_TABLE, RECREATE_A_TABLE), strict=True):
        lines = [line.strip() for line in example.splitlines()]
        assert [line for line in block.splitlines() if line.strip() not in lines] == []


CAREFUL = {
    "guards": """
    guards = op.get_context().opts["guards"]
    guards.create_table("x", sa.Column("id", sa.Integer(), primary_key=True))
    guards.add_column("t001", sa.Column("more", sa.LargeBinary()))
    guards.create_index("i", "t001", ["more"])
""",
    "imported guards": """
    from nextcloud_mcp_server.migrations import guards

    guards.create_table("x", sa.Column("id", sa.Integer(), primary_key=True))
""",
    "a new shape": """
    guards = op.get_context().opts["guards"]
    guards.recreate_table(
        "t001", sa.Column("id", sa.BigInteger(), primary_key=True), sa.Column("body", sa.Text())
    )
""",
    "values": """
    guards = op.get_context().opts["guards"]
    guards.rewrite(
        "t001", lambda row: {"body": row["body"].lower()}, columns=["id", "body"],
        where="body <> lower(body)",
    )
""",
    "operations": """
    op.create_table("x", sa.Column("id", sa.LargeBinary()), if_not_exists=True)
    op.create_index("i", "x", ["id"], if_not_exists=True)
    op.drop_index("j", "t001", if_exists=True)
""",
    "one engine each": """
    if op.get_context().dialect.name == "sqlite":
        op.execute("CREATE TABLE IF NOT EXISTS x (a BLOB)")
    else:
        op.execute("CREATE TABLE IF NOT EXISTS x (a BYTEA)")
""",
    "parameters": """
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE t001 SET (fillfactor = 80)")
        op.execute("ALTER TABLE own.t001 RESET (fillfactor, autovacuum_enabled)")
""",
    "rows": """
    op.execute("UPDATE t001 SET body = REPLACE(body, ':', '.') WHERE body LIKE '%:%'")
    op.execute("UPDATE t001 SET body = NULL")
    op.execute("INSERT INTO t001 (id, body) VALUES (1, 'x') ON CONFLICT (id) DO NOTHING")
    op.execute("DELETE FROM t002 WHERE body = 'BEGIN; COMMIT; PRAGMA x'")
""",
    "a new table with rows": """
    op.execute("CREATE TABLE IF NOT EXISTS x (id INTEGER PRIMARY KEY)")
    op.execute("INSERT INTO x SELECT id FROM t001 WHERE id NOT IN (SELECT id FROM x)")
    op.execute("DELETE FROM x WHERE id < 0")
""",
    "declared": """
    op.execute("DROP TABLE IF EXISTS t001")
""",
    "recreation": """
    op.execute("CREATE TABLE IF NOT EXISTS t001_new (id INTEGER PRIMARY KEY, body TEXT NOT NULL)")
    op.execute("INSERT INTO t001_new (id, body) SELECT id, coalesce(body, '') FROM t001")
    op.execute("DROP TABLE t001")
    op.execute("ALTER TABLE t001_new RENAME TO t001")
    op.execute("CREATE INDEX idx_t001_body ON t001(body)")
""",
}


#: How the way back is written; where nothing stands here the table is dropped.
BACK = {
    "guards": """
    guards = op.get_context().opts["guards"]
    guards.drop_index("i", "t001")
    guards.drop_column("t001", "more")
    guards.drop_table("x")
""",
    "declared": """
    op.execute("CREATE TABLE IF NOT EXISTS t001 (id INTEGER PRIMARY KEY, body TEXT)")
""",
    "recreation": """
    guards = op.get_context().opts["guards"]
    guards.drop_index("idx_t001_body", "t001")
    guards.recreate_table(
        "t001", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("body", sa.Text())
    )
""",
}


@pytest.mark.parametrize("name", CAREFUL)
def test_a_careful_migration_has_no_note(folder: Folder, name: str) -> None:
    """Portable, idempotent and declared SQL has no notes."""
    body = (
        'import sqlalchemy as sa\n\nDELETES_ROWS_FROM = ("t002",)\n\n\ndef upgrade():'
        f"{CAREFUL[name]}\n\ndef downgrade():"
        + BACK.get(name, '\n    op.execute("DROP TABLE IF EXISTS x")\n')
    )
    labels = "Upgrade changes: some rows.\nDowngrade loses: the table."
    if name not in {"values", "rows", "a new table with rows", "declared"}:
        labels = labels.partition("\n")[2]
    folder.write("20260301_1200_003_x.py", source("003", "002", body, labels=labels))
    assert folder.problems() == []


def test_a_downgrade_that_makes_a_table_again_needs_no_generated_file(folder: Folder) -> None:
    """The downgrade of a new revision is checked although structure.json lacks it."""
    shape = CAREFUL["a new shape"]
    body = f"import sqlalchemy as sa\n\n\ndef upgrade():{shape}\n\ndef downgrade():{shape}"
    folder.write("20260301_1200_003_x.py", source("003", "002", body))
    assert folder.problems() == []
    folder.release()
    assert folder.review().problems == ()


def test_values_that_change_are_said(folder: Folder) -> None:
    """A rewrite changes rows like an UPDATE, and a later edit of its code is reported."""
    values = CAREFUL["values"]
    body = f"def upgrade():{values}\n\ndef downgrade():{values}"
    path = folder.write("20260301_1200_003_x.py", source("003", "002", body))
    assert {problem.rule for problem in folder.problems()} == {"undeclared-change"}
    text = path.read_text("utf-8").replace("Downgrade", "Upgrade changes: case.\nDowngrade")
    folder.write(path.name, text)
    folder.release()
    folder.edit("003", ".lower()}", ".upper()}")
    assert [problem.rule for problem in folder.problems()] == ["edited-release"]


def test_a_migration_of_words_alone_is_no_matter(folder: Folder) -> None:
    """A revision that does nothing, with a reason, has no problems."""
    nothing = 'def {}():\n    """Do nothing: the number is taken by a release."""\n\n\n'
    body = nothing.format("upgrade") + nothing.format("downgrade")
    folder.write("20260301_1200_003_x.py", source("003", "002", body))
    assert folder.problems() == []
