"""What the way back leaves and loses: told of the revision that does it, and of no other."""

from __future__ import annotations

import pytest

from nextcloud_mcp_server.authoring.lint.rules import Problem
from tests.authoring.lint.folder import CREATE, Folder

#: A table and a column of two kinds to lose.
UP = "CREATE TABLE IF NOT EXISTS x (id INTEGER PRIMARY KEY, a TEXT, b TEXT)"


def both(up: list[str], down: list[str]) -> str:
    """The body of a revision that says ``up`` and ``down``."""
    lines = []
    for name, said in (("upgrade", up), ("downgrade", down)):
        lines += [f"def {name}():", *(f"    op.execute({one!r})" for one in said), ""]
    return "\n".join(lines)


def found(folder: Folder, rule: str) -> list[Problem]:
    """The places that break ``rule``."""
    return [problem for problem in folder.problems() if problem.rule == rule]


def told(folder: Folder, rule: str) -> list[str]:
    """What is said of the places that break ``rule``."""
    return [problem.message for problem in found(folder, rule)]


@pytest.mark.parametrize(
    ("up", "down", "said"),
    [
        ([UP], ["UPDATE t001 SET body = '' WHERE body IS NULL"], "it leaves table x"),
        (
            ["ALTER TABLE t001 ADD COLUMN a TEXT", "CREATE INDEX i ON t001(a)"],
            ["DROP INDEX IF EXISTS i"],
            "it leaves column t001.a",
        ),
        (["CREATE INDEX i ON t001(body)"], ["DROP TABLE IF EXISTS x"], "it leaves index i"),
        (["DROP TABLE t001"], ["DROP TABLE IF EXISTS x"], "it lacks table t001"),
        (
            ["ALTER TABLE t001 RENAME COLUMN body TO b"],
            ["DROP TABLE IF EXISTS x"],
            "it lacks column t001.body; it leaves column t001.b",
        ),
        (
            ["DROP TABLE t001"],
            ["CREATE TABLE t001 (id INTEGER PRIMARY KEY, body TEXT DEFAULT '')"],
            "it has another t001.body",
        ),
    ],
)
def test_a_way_back_that_does_not_lead_back(
    up: list[str], down: list[str], said: str, folder: Folder
) -> None:
    """Whatever is more, less or other than before the upgrade is named."""
    folder.add("003", "002", both(up, down))
    assert told(folder, "uneven-downgrade") == [f"After the upgrade and the downgrade {said}."]


def test_only_the_revision_that_leaves_it_is_blamed(folder: Folder) -> None:
    """What a later revision has left is there below the earlier ones, which are not blamed."""
    folder.add("003", "002", CREATE.format("t003"))
    path = folder.add("004", "003", both([UP], ["UPDATE t001 SET id = 1 WHERE id IS NULL"]))
    assert [problem.path for problem in found(folder, "uneven-downgrade")] == [path]


@pytest.mark.parametrize("said", ["nothing.", "Nothing", "none.", "nothing at all.", "nothing!"])
def test_a_loss_that_is_denied(said: str, folder: Folder) -> None:
    """However it is put that nothing is lost, the table that goes is named."""
    folder.add("003", "002", CREATE.format("x"), labels=f"Downgrade loses: {said}")
    assert told(folder, "loses-denied") == [
        "It says that nothing is lost, and the downgrade drops table x."
    ]


@pytest.mark.parametrize(
    ("up", "down", "lost"),
    [
        (
            ["ALTER TABLE t001 ADD COLUMN a TEXT"],
            ["ALTER TABLE t001 DROP COLUMN a"],
            "column t001.a",
        ),
        ([UP], ["DROP TABLE x", "DROP TABLE t001"], "table t001, table x"),
        (
            ["CREATE INDEX i ON t001(body)"],
            ["DROP TABLE t001", "CREATE TABLE t001 (id INTEGER PRIMARY KEY, body TEXT)"],
            "table t001",
        ),
    ],
)
def test_columns_and_emptied_tables_are_losses(
    up: list[str], down: list[str], lost: str, folder: Folder
) -> None:
    """A column, several tables, and a table that is dropped and made again without its rows."""
    folder.add("003", "002", both(up, down), labels="Downgrade loses: nothing.")
    [message] = told(folder, "loses-denied")
    assert message.removesuffix(".").partition(" drops ")[2].split(", ") == lost.split(", ")


@pytest.mark.parametrize(
    ("up", "down"),
    [
        (["CREATE INDEX i ON t001(body)"], ["DROP INDEX i"]),
        (
            ["ALTER TABLE t001 RENAME COLUMN body TO b"],
            ["ALTER TABLE t001 RENAME COLUMN b TO body"],
        ),
        (["ALTER TABLE t001 RENAME TO x"], ["ALTER TABLE x RENAME TO t001"]),
        (["DROP TABLE t001"], ["CREATE TABLE t001 (id INTEGER PRIMARY KEY, body TEXT)"]),
        (
            ["UPDATE t001 SET body = '' WHERE body IS NULL"],
            [
                "CREATE TABLE y (id INTEGER PRIMARY KEY, body TEXT)",
                "INSERT INTO y SELECT id, body FROM t001",
                "DROP TABLE t001",
                "ALTER TABLE y RENAME TO t001",
            ],
        ),
    ],
    ids=["index", "column-renamed", "table-renamed", "made-again", "recreated"],
)
def test_what_loses_nothing_may_say_so(up: list[str], down: list[str], folder: Folder) -> None:
    """An index, a renaming and a recreation that copies the rows are no loss, and lead back."""
    folder.add("003", "002", both(up, down), labels="Downgrade loses: nothing.")
    assert told(folder, "loses-denied") == told(folder, "uneven-downgrade") == []


def test_a_loss_that_is_owned_up_to_is_none_of_lint_s_business(folder: Folder) -> None:
    """A sentence that names a loss is for people to judge."""
    folder.add("003", "002", CREATE.format("x"), labels="Downgrade loses: nothing but the x.")
    assert folder.problems() == []


def test_a_downgrade_that_fails_when_it_runs(folder: Folder) -> None:
    """What can be written as SQL and not be run is told where it stands; the rest is judged."""
    folder.add("003", "002", both([UP], ["DROP TABLE nowhere"]))
    folder.add("004", "003", both(["CREATE INDEX i ON t001(body)"], ["SELECT 1"]))
    [failed] = found(folder, "fails")
    assert failed.path == folder.file("003")
    assert "no such table: nowhere" in failed.message
    assert told(folder, "uneven-downgrade") == [
        "After the upgrade and the downgrade it leaves index i."
    ]
