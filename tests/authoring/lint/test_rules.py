"""Each rule reports its problem with the line and a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nextcloud_mcp_server.authoring.lint.rules import RULES, refused
from tests.authoring.lint.folder import CREATE, HERE, Folder, here, source, with_sql

ADDS = CREATE.format("x")


@dataclass(frozen=True)
class Case:
    """A way to break a rule.

    Attributes:
        make: breaks it in a folder.
        at: the expected line; None for the marked one.
        also: other broken rules.
    """

    rule: str
    name: str
    make: Callable[[Folder], object]
    at: int | None = None
    also: tuple[str, ...] = ()


def add(body: str, **parts: str) -> Callable[[Folder], object]:
    """Build a function that adds a revision with this body."""
    return lambda folder: folder.add("003", "002", body, **parts)


def write(name: str, text: str) -> Callable[[Folder], object]:
    """Build a function that writes a version file."""
    return lambda folder: folder.write(name, text)


def sends(rule: str, name: str, *up: str, also: tuple[str, ...] = ()) -> Case:
    """Build a case whose last statement of the upgrade breaks a rule."""
    return Case(rule, name, add(with_sql(*up)), also=also)


def edited(number: str, old: str, new: str) -> Callable[[Folder], object]:
    """Build a function that edits a revision."""
    return lambda folder: folder.edit(number, old, new)


def stale(folder: Folder) -> None:
    """Edit structure.json."""
    path = folder.path / "structure.json"
    path.write_text(path.read_text("utf-8").replace('"t002@002"', f'"{HERE}"', 1), "utf-8")


def without_docstring(folder: Folder) -> None:
    """Write a revision without a docstring."""
    text = source("003", "002", ADDS)
    folder.write("20260301_1200_003_add_it.py", text[text.index("from alembic") :])


def unreadable(folder: Folder) -> None:
    """Write a released.json that is not JSON."""
    (folder.path / "released.json").write_text(f"{HERE} is a conflict\n", "utf-8")


def _twice(folder: Folder) -> None:
    first = folder.add("003", "002", ADDS)
    text = _with_mark(source("003", "002", CREATE.format("y")), "revision")
    folder.write(first.name.replace("_add_it", "_add_y"), text)


def _leap(folder: Folder) -> None:
    text = _with_mark(source("004", "002", ADDS), "revision")
    folder.write("20260301_1200_004_add_it.py", text)


def _assign(folder: Folder, name: str, value: str) -> None:
    text = re.sub(
        rf"^{name} = .*$", f"{name} = {value}", source("003", "002", ADDS), flags=re.MULTILINE
    )
    folder.write("20260301_1200_003_add_it.py", _with_mark(text, name))


def _with_mark(text: str, name: str) -> str:
    lines = [f"{x}  # {HERE}" if x.startswith(f"{name} =") else x for x in text.splitlines()]
    return "\n".join(lines) + "\n"


OLDER = source("003", "002", ADDS)
CASES = [
    Case("file-name", "no-name", write("draft.py", f'"""{HERE}"""\n')),
    Case("file-name", "package", write("__init__.py", f'"""{HERE}"""\n')),
    Case("file-name", "no-date", write("20261301_1200_003_x.py", f"# {HERE}\n" + OLDER)),
    Case("file-name", "capitals", write("20260301_1200_003_Add.py", f"# {HERE}\n" + OLDER)),
    Case("file-name", "dash", write("20260301_1200_003_a-b.py", f"# {HERE}\n" + OLDER)),
    Case(
        "file-name",
        "older-than-its-parent",
        write("20251201_1200_003_add_it.py", OLDER.replace('"""Add', f'"""Add {HERE}')),
    ),
    Case("not-python", "syntax", add(f"def upgrade(:  # {HERE}\n")),
    Case("not-python", "null", write("20260301_1200_003_x.py", f"# {HERE}\0\n")),
    Case("revision-id", "another", lambda f: _assign(f, "revision", '"004"')),
    Case("revision-id", "a-number", lambda f: _assign(f, "revision", "3")),
    Case("revision-id", "none", lambda f: _assign(f, "revision", "None"), None),
    Case("revision-id", "leap", _leap),
    Case("duplicated-id", "two", _twice),
    Case("broken-chain", "unknown-parent", lambda f: _assign(f, "down_revision", '"009"')),
    Case("broken-chain", "two-parents", lambda f: _assign(f, "down_revision", '("001", "002")')),
    Case("broken-chain", "no-parent", lambda f: _assign(f, "down_revision", "None")),
    Case("broken-chain", "itself", lambda f: _assign(f, "down_revision", '"003"')),
    Case("broken-chain", "computed", lambda f: _assign(f, "down_revision", '"00" + str(2)')),
    Case("broken-chain", "a-branch", lambda f: _assign(f, "branch_labels", '"main"')),
    Case("broken-chain", "a-dependency", lambda f: _assign(f, "depends_on", '"001"')),
    Case("second-head", "same-parent", lambda f: _assign(f, "down_revision", '"001"')),
    Case("missing-function", "downgrade", add("def upgrade():\n    pass\n"), 1),
    Case("missing-function", "upgrade", add("def downgrade():\n    pass\n"), 1),
    Case(
        "empty-downgrade",
        "pass",
        add(ADDS.partition("def downgrade")[0] + f"def downgrade():  # {HERE}\n    pass\n"),
    ),
    Case(
        "empty-downgrade",
        "template",
        add(
            ADDS.partition("def downgrade")[0]
            + f'def downgrade():  # {HERE}\n    """FILL IN: what."""\n'
        ),
        also=("unfinished",),
    ),
    Case("loses-missing", "none", add(ADDS, labels="It loses the table."), 1),
    Case("loses-missing", "empty", add(ADDS, labels="\nDowngrade loses:"), 4),
    Case("loses-missing", "template", add(ADDS, labels=f"Downgrade loses: FILL IN {HERE}")),
    Case(
        "loses-missing", "two", add(ADDS, labels=f"Downgrade loses: a.\nDowngrade loses: {HERE}.")
    ),
    Case("application-import", "import", add(f"import nextcloud_mcp_server  # {HERE}\n\n{ADDS}")),
    Case(
        "application-import",
        "from",
        add(f"from nextcloud_mcp_server.errors import CODES  # {HERE}\n\n{ADDS}"),
    ),
    Case(
        "application-import",
        "relative",
        add(f"from . import x  # {HERE}\n\n{ADDS}"),
        also=("fails",),
    ),
    Case(
        "application-import",
        "in-a-function",
        add(ADDS.replace("None:\n", f"None:\n    import nextcloud_mcp_server  # {HERE}\n", 1)),
    ),
    Case(
        "application-import",
        "by-name",
        add(
            "from importlib import import_module\n\n"
            f'import_module("nextcloud_mcp_server.schema.tables")  # {HERE}\n\n{ADDS}'
        ),
    ),
    *(
        Case("application-import", name, add(f"from {text}  # {HERE}\n\n{ADDS}"))
        for name, text in {
            "guards-and-more": "nextcloud_mcp_server.migrations import guards, upgrade_database",
            "guards-renamed": "nextcloud_mcp_server.migrations import guards as g",
            "guards-elsewhere": "nextcloud_mcp_server.migrate.guards import Guards",
            "the-module": "nextcloud_mcp_server import migrations",
        }.items()
    ),
    Case("foreign-import", "click", add(f"import click  # {HERE}\n\n{ADDS}")),
    sends("transaction-control", "commit", "COMMIT"),
    sends("transaction-control", "pragma", "PRAGMA user_version = 3"),
    sends(
        "undeclared-delete", "delete", "DELETE FROM t001 WHERE id < 0", also=("undeclared-change",)
    ),
    Case(
        "undeclared-delete",
        "another",
        add(f'DELETES_ROWS_FROM = ("t002",)\n\n\n{with_sql("DELETE FROM t001")}'),
        also=("undeclared-change",),
    ),
    Case(
        "fails", "offline", add(ADDS.replace("op.execute", f"1 / 0  # {HERE}\n    op.execute", 1))
    ),
    Case("fails", "down", add(ADDS.replace('op.execute("DROP', f'op.nonsense("{HERE}'))),
    sends("fails", "no-sql", "SELECTED 1"),
    Case(
        "fails",
        "down-in-the-database",
        add(ADDS.replace('IF EXISTS x")', f'y")  # {HERE}')),
        also=("not-idempotent",),
    ),
    sends(
        "fails",
        "twice",
        ADDS.split('"')[1],
        "CREATE TABLE x (id INTEGER)",
        also=("not-idempotent",),
    ),
    Case(
        "edited-release",
        "upgrade",
        edited("002", "body TEXT)", f'body BLOB)")  # {HERE}("'),
        also=("dialect-only",),
    ),
    Case("edited-release", "downgrade", edited("002", 'S t002")', f'S t001")  # {HERE}')),
    Case("deleted-release", "the-newest", lambda f: f.file("002").unlink(), 7),
    Case("released-file", "conflict", unreadable),
    Case("stale-structure", "edited", stale),
    sends("dialect-only", "sqlite-type", "CREATE TABLE IF NOT EXISTS x (id INTEGER, a BLOB)"),
    sends(
        "dialect-only",
        "sqlite-clause",
        "INSERT OR IGNORE INTO t001 VALUES (1, 'a')",
        also=("undeclared-change",),
    ),
    sends("dialect-only", "postgresql-type", "CREATE TABLE IF NOT EXISTS x (id SERIAL)"),
    sends(
        "dialect-only",
        "function",
        "UPDATE t001 SET body = ifnull(body, '') WHERE body IS NULL",
        also=("undeclared-change",),
    ),
    sends("drop-without-recreation", "table", "DROP TABLE IF EXISTS t001"),
    sends(
        "drop-without-recreation",
        "column",
        "ALTER TABLE t001 DROP COLUMN body",
        also=("not-idempotent",),
    ),
    sends(
        "drop-without-recreation",
        "rename-column",
        "ALTER TABLE t001 RENAME COLUMN body TO b",
        also=("not-idempotent",),
    ),
    sends("drop-without-recreation", "rename", "ALTER TABLE t001 RENAME TO x"),
    sends("not-idempotent", "create", "CREATE TABLE x (id INTEGER)"),
    sends("not-idempotent", "index", "CREATE INDEX i ON t001(body)"),
    sends("not-idempotent", "unique", "CREATE UNIQUE INDEX i ON t001(body)"),
    sends("not-idempotent", "drop", "DROP TABLE t001", also=("drop-without-recreation",)),
    sends("not-idempotent", "add-column", "ALTER TABLE t001 ADD COLUMN a TEXT"),
    Case(
        "not-idempotent",
        "parameters-and-more",
        add(
            'def upgrade():\n    if op.get_context().dialect.name == "postgresql":\n'
            '        op.execute("ALTER TABLE t001 SET (fillfactor = 80), ADD a TEXT")'
            f"  # {HERE}\n\n\ndef downgrade():\n"
            '    op.execute("DROP TABLE IF EXISTS x")\n'
        ),
    ),
    sends(
        "not-idempotent", "insert", "INSERT INTO t001 VALUES (1, 'a')", also=("undeclared-change",)
    ),
    sends("not-idempotent", "update", "UPDATE t001 SET id = id + 1", also=("undeclared-change",)),
    sends("undeclared-change", "update", "UPDATE t001 SET body = '' WHERE body IS NULL"),
    sends(
        "undeclared-change",
        "insert",
        "INSERT INTO t001 SELECT 1, 'a' WHERE NOT EXISTS (SELECT 1 FROM t001)",
    ),
    Case("description", "none", without_docstring, 1, also=("loses-missing",)),
    Case("unfinished", "docstring", add(ADDS, labels=f"FILL IN {HERE}\n\nDowngrade loses: it.")),
    Case(
        "unfinished",
        "function",
        add(ADDS.replace("None:\n", f'None:\n    """FILL IN: {HERE}"""\n', 1)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.name}")
def test_a_broken_rule_is_reported(case: Case, folder: Folder) -> None:
    """The rule, the line and the remedy are reported, and nothing else."""
    case.make(folder)
    problems = folder.review().problems
    found = [problem for problem in problems if problem.rule == case.rule]
    assert found, problems
    assert found[0].line == (case.at or here(found[0].path)), found
    assert found[0].message.endswith(".")
    assert found[0].remedy
    assert "{" not in found[0].remedy
    assert {p.rule for p in problems} - {case.rule, "stale-structure"} == set(case.also), problems
    assert refused(found, strict=False) is RULES[case.rule].refuses
    assert refused(found, strict=True)


def test_every_rule_has_a_case() -> None:
    """Each rule has a case."""
    assert {case.rule for case in CASES} == set(RULES)
