"""A start refuses by name what the store could not use, and accepts what it can."""

from __future__ import annotations

import inspect as inspection
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from nextcloud_mcp_server import auth
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import usable
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.structure import UNUSED
from tests.cli.places import execute
from tests.support import invariants, operator_objects
from tests.support.by_path import inspect, prepare
from tests.support.contents import KEY
from tests.support.errors import refused
from tests.support.operator_objects import add_foreign
from tests.support.shapes import at

_TABLES = load_history().structure("010").tables


def remade(table: str, *changes: tuple[str, str], ending: str = "") -> tuple[str, ...]:
    """Return statements that create ``table`` again with its rows, as an operator would."""
    text, columns = _TABLES[table].sql, ", ".join(_TABLES[table].columns)
    for old, new in changes:
        assert old in text, text
        text = text.replace(old, new, 1)
    return (
        "PRAGMA legacy_alter_table=ON",
        f"ALTER TABLE {table} RENAME TO old_{table}",
        f"{text}{ending}",
        f"INSERT INTO {table} ({columns}) SELECT {columns} FROM old_{table}",
        f"DROP TABLE old_{table}",
        *(
            index
            for name, index in load_history().structure("010").indexes.items()
            if load_history().structure("010").owners[name] == table
        ),
    )


IGNORING_CASE = ("user_id TEXT", "user_id TEXT COLLATE NOCASE")

INTEGERS = [("BIGINT", "INTEGER")] * 2

#: By name: what an operator did, and the table and the reason that are named.
UNUSABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "a constraint that deletes other rows": (
        remade("refresh_tokens", ("scopes TEXT", "scopes TEXT UNIQUE ON  CONFLICT replace")),
        "refresh_tokens: one of its constraints has ON CONFLICT replace",
    ),
    "a constraint that ignores a row": (
        remade("app_passwords", ("username TEXT", "username TEXT UNIQUE ON CONFLICT IGNORE")),
        "app_passwords: one of its constraints has ON CONFLICT IGNORE",
    ),
    "no rowid": (
        remade("refresh_tokens", ending=" WITHOUT ROWID"),
        "refresh_tokens: it was created WITHOUT ROWID",
    ),
    "no rowid, another table": (
        remade("app_passwords", ending=" WITHOUT ROWID"),
        "app_passwords: it was created WITHOUT ROWID",
    ),
    "a reference to no key": (
        ("CREATE TABLE op_child (s TEXT REFERENCES refresh_tokens (scopes))",),
        'refresh_tokens: foreign key mismatch - "op_child" referencing "refresh_tokens"',
    ),
    "a key that ignores case": (
        ("DELETE FROM refresh_tokens", *remade("refresh_tokens", IGNORING_CASE)),
        "refresh_tokens: it does not take what the released table takes: UNIQUE constraint",
    ),
    "a lookup that ignores case": (
        remade(
            "browser_sessions",
            ("session_id TEXT", "session_id TEXT COLLATE NOCASE"),
            ("PRIMARY KEY (session_id)", "PRIMARY KEY (session_id COLLATE BINARY)"),
        ),
        "browser_sessions: session_id ignores case",
    ),
    "a key of numbers": (
        remade("app_passwords", ("user_id TEXT", "user_id STRING")),
        "app_passwords: it does not take what the released table takes: UNIQUE constraint",
    ),
    "a time as text": (
        remade("app_passwords", ("created_at BIGINT", "created_at TEXT")),
        "app_passwords: created_at does not keep the type of a value",
    ),
    "no NULL": (
        (
            "UPDATE app_passwords SET scopes = '' WHERE scopes IS NULL",
            *remade("app_passwords", ("scopes TEXT", "scopes TEXT DEFAULT '' NOT NULL")),
        ),
        "app_passwords: it does not take what the released table takes: NOT NULL constraint",
    ),
    "strict types": (
        (
            "DELETE FROM app_passwords",
            *remade("app_passwords", ("BLOB", "INT"), *INTEGERS, ending=" STRICT"),
        ),
        "cannot store BLOB value in INT column app_passwords.encrypted_password",
    ),
    "a generated column": (
        (
            "ALTER TABLE app_passwords DROP COLUMN username",
            "ALTER TABLE app_passwords ADD COLUMN username TEXT AS (user_id)",
        ),
        "app_passwords: cannot INSERT into generated column",
    ),
    "a function of an index": (
        ("CREATE INDEX op_index ON refresh_tokens (fold(user_id))",),
        (
            "refresh_tokens: unknown function: fold() (it has index op_index; to remove it: "
            'DROP INDEX "op_index")'
        ),
    ),
    "a collation of an index": (
        (operator_objects.INDEX, 'CREATE INDEX "Op 2" ON refresh_tokens (user_id COLLATE de)'),
        (
            "refresh_tokens: no such collation sequence: de (it has index Op 2; to remove it: "
            'DROP INDEX "Op 2")'
        ),
    ),
    "a function of a trigger": (
        ("CREATE TRIGGER op_trigger AFTER INSERT ON oauth_clients BEGIN SELECT none(1); END",),
        (
            "oauth_clients: no such function: none (it has trigger op_trigger; to remove it: "
            'DROP TRIGGER "op_trigger")'
        ),
    ),
    "a trigger on a table that is gone": (
        ("CREATE TRIGGER op_trigger AFTER DELETE ON audit_logs BEGIN DELETE FROM gone; END",),
        "audit_logs: no such table: main.gone",
    ),
}


@pytest.mark.parametrize("revision", ["010", "head"])
@pytest.mark.parametrize("name", UNUSABLE)
def test_it_is_refused_by_name(name: str, revision: str, path: Path) -> None:
    """The table and the reason are named, before an upgrade and at head; nothing is changed."""
    statements, reason = UNUSABLE[name]
    at("010").write(path)
    if revision == "head":
        prepare(path)
    add_foreign(path, statements)
    with invariants.unchanged(path):
        error = refused(lambda: prepare(path))
    assert error.code == "inconsistent"
    assert reason in error.message
    assert "db restore --newest" in error.remedy


@pytest.mark.parametrize("name", [name for name in UNUSABLE if "DROP" in UNUSABLE[name][1]])
def test_the_statement_of_the_message_is_enough(name: str, path: Path) -> None:
    """What the message says removes the index or trigger, without its program."""
    at("010").write(path)
    statements, reason = UNUSABLE[name]
    add_foreign(path, statements)
    execute(path, *reason.partition("to remove it: ")[2].removesuffix(")").split("; "))
    prepare(path)
    assert inspect(path).ready


#: What an operator did that the store can use.
USABLE: dict[str, tuple[str, ...]] = {
    "another case": (
        "ALTER TABLE refresh_tokens RENAME COLUMN scopes TO Scopes",
        "ALTER TABLE refresh_tokens RENAME COLUMN encrypted_token TO ENCRYPTED_TOKEN",
    ),
    "a table in another case": (
        "ALTER TABLE refresh_tokens RENAME TO x",
        "ALTER TABLE x RENAME TO Refresh_Tokens",
    ),
    "strict": remade("app_passwords", *INTEGERS, ending=" STRICT"),
    "a check": remade("refresh_tokens", ("scopes TEXT", "scopes TEXT CHECK (length(scopes) > 3)")),
    "a unique index": ("CREATE UNIQUE INDEX op_index ON refresh_tokens (encrypted_token)",),
    "a child": operator_objects.CHILD,
    "a trigger": (*operator_objects.LOG, operator_objects.TRIGGER),
    "a function of another table": (
        "CREATE TABLE op_names (name TEXT)",
        "CREATE INDEX op_index ON op_names (fold(name))",
    ),
    "a damaged view": ("CREATE VIEW op_view AS SELECT none(user_id) FROM refresh_tokens",),
    "an unused table": (
        "CREATE TRIGGER op_trigger AFTER INSERT ON usage_events BEGIN SELECT none(1); END",
    ),
}


@pytest.mark.parametrize("revision", ["010", "head"])
@pytest.mark.parametrize("name", USABLE)
async def test_it_can_be_used(name: str, revision: str, path: Path) -> None:
    """A start accepts it, and the store reads and writes."""
    at("010").write(path)
    if revision == "head":
        prepare(path)
    add_foreign(path, USABLE[name])
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("new", "token", scopes=["notes"])
        found = await storage.get_refresh_token("new")
        assert found is not None
        assert (found.token, found.scopes) == ("token", ("notes",))
        assert await storage.get_refresh_token("alice") is not None
        assert await storage.delete_refresh_token("new")


def test_a_released_database_is_not_examined(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start at head opens nothing more if every table is as a revision makes it."""
    prepare(path)
    monkeypatch.setattr(usable, "unusable_in", None)
    prepare(path)
    execute(path, "CREATE INDEX op_index ON refresh_tokens (expires_at)")
    with pytest.raises(TypeError):
        prepare(path)


def test_only_unused_tables_are_left_out() -> None:
    """A table that is not examined is in no statement of the store."""
    modules = [import_module(f"{auth.__name__}.{m.name}") for m in iter_modules(auth.__path__)]
    text = "".join(map(inspection.getsource, modules))
    assert not [name for name in UNUSED if f"tables.{name}" in text or f"import {name}" in text]


def test_a_definition_that_is_no_text_is_named(path: Path) -> None:
    """A flipped byte in a definition that SQLite still reads is refused by name."""
    prepare(path)
    content = path.read_bytes()
    before = b"auth_method TEXT, "
    assert before in content
    path.write_bytes(content.replace(before, b"auth_method TEXT\xd1 "))
    error = refused(lambda: prepare(path), "inconsistent")
    assert "audit_logs: its definition is not readable text" in error.message
