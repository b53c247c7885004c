"""Statements that create what an operator may have added to the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

CHILD = (
    "CREATE TABLE op_child (user_id TEXT REFERENCES refresh_tokens (user_id) ON DELETE CASCADE)",
    "INSERT INTO op_child SELECT user_id FROM refresh_tokens",
)
LOG = ("CREATE TABLE op_log (what TEXT)", "INSERT INTO op_log VALUES ('kept')")
VIEW = "CREATE VIEW op_view AS SELECT user_id FROM refresh_tokens"
INDEX = "CREATE INDEX op_index ON refresh_tokens (expires_at)"
TRIGGER = (
    "CREATE TRIGGER op_trigger AFTER INSERT ON refresh_tokens "
    "BEGIN INSERT INTO op_log VALUES (new.user_id); END"
)
SWEEPER = "CREATE TRIGGER op_sweeper AFTER UPDATE ON app_passwords BEGIN DELETE FROM op_log; END"

FOREIGN_TABLE = "CREATE TABLE op_names (name TEXT)"
FOREIGN_ROW = "INSERT INTO op_names VALUES ('a'), ('b')"

#: Objects that only their own program can use, because it alone has ``de`` and ``fold``.
FOREIGN: dict[str, tuple[str, ...]] = {
    "a collation of a key": (
        "CREATE TABLE op_names (name TEXT COLLATE de PRIMARY KEY)",
        FOREIGN_ROW,
    ),
    "a collation of an index": (
        FOREIGN_TABLE,
        "CREATE INDEX op_index ON op_names (name COLLATE de)",
        FOREIGN_ROW,
    ),
    "a table without rowid": (
        "CREATE TABLE op_names (name TEXT COLLATE de PRIMARY KEY) WITHOUT ROWID",
        FOREIGN_ROW,
    ),
    "a function of an index": (
        FOREIGN_TABLE,
        "CREATE INDEX op_index ON op_names (fold(name))",
        FOREIGN_ROW,
    ),
    "a function of a partial index": (
        FOREIGN_TABLE,
        "CREATE INDEX op_index ON op_names (name) WHERE fold(name) > ''",
        FOREIGN_ROW,
    ),
    "a reference to another collation": (
        "CREATE TABLE op_parents (name TEXT PRIMARY KEY COLLATE de)",
        "CREATE TABLE op_names (name TEXT REFERENCES op_parents (name))",
        FOREIGN_ROW,
    ),
    "a check": ("CREATE TABLE op_names (name TEXT CHECK (fold(name) <> ''))", FOREIGN_ROW),
    "a generated column": (
        "CREATE TABLE op_names (name TEXT, folded AS (fold(name)) STORED)",
        "INSERT INTO op_names VALUES ('a')",
    ),
    "a view": (FOREIGN_TABLE, "CREATE VIEW op_view AS SELECT fold(name) FROM op_names"),
    "a virtual table": (
        "CREATE VIRTUAL TABLE op_names USING fts5(name)",
        FOREIGN_ROW,
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'fts5', 'no_module') WHERE name = 'op_names'",
    ),
}


def add_foreign(path: Path, statements: Iterable[str]) -> None:
    """Execute ``statements`` as a program that has ``de`` and ``fold``."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_collation("de", lambda one, other: (one > other) - (one < other))
        connection.create_function("fold", 1, str, deterministic=True)
        for statement in statements:
            connection.execute(statement)
