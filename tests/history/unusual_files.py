"""Token databases in unusual states: empty, unusual settings, operator objects, not closed."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.history.case import Case, Write, from_bytes, from_sql, of
from tests.history.released_files import WEBHOOKS
from tests.support.facts import HEAD
from tests.support.operator_objects import CHILD
from tests.support.shapes import Shape, at


def empty() -> Iterator[Case]:
    """Yield files without tables, which count as new."""
    yield Case("zero_bytes", "create", from_bytes(b""))
    yield Case("no_tables", "create", from_sql("PRAGMA user_version = 7"))
    yield Case(
        "sequence_only",
        "create",
        from_sql("CREATE TABLE x (a INTEGER PRIMARY KEY AUTOINCREMENT)", "DROP TABLE x"),
    )
    yield of("after_downgrade_to_base", "create", Shape(versions=()))


def own() -> Iterator[Case]:
    """Yield databases with another encoding, journal mode, page size or letter case."""
    for encoding in ("UTF-16le", "UTF-16be"):
        yield of(f"utf16_{encoding}", "upgrade:009->head", at("009"), f"encoding='{encoding}'")
        yield of(
            f"pre_{encoding}", "stamp:001->head", at("001").unversioned(), f"encoding='{encoding}'"
        )
    for size in (512, 65536):
        yield of(f"page_size_{size}", "upgrade:006->head", at("006"), f"page_size={size}")
    yield of("auto_vacuum", "upgrade:006->head", at("006"), "auto_vacuum=FULL")
    yield of(
        "marked",
        "upgrade:002->head",
        at("002").also("PRAGMA user_version = 1", "PRAGMA application_id = 5"),
    )
    yield of("journal_wal", "upgrade:007->head", at("007"), "journal_mode=WAL")
    yield of("journal_truncate", "upgrade:007->head", at("007"), "journal_mode=TRUNCATE")
    yield of("at_head_in_wal", "none", at(HEAD, "portable"), "journal_mode=WAL")
    pre = at("001").unversioned().without(*WEBHOOKS)
    yield of(
        "case_of_names", "repair->stamp:001->head", pre.renamed("refresh_tokens", "Refresh_Tokens")
    )
    upper = at("009").renamed("app_passwords", "APP_PASSWORDS")
    yield of("case_of_names_at_009", "repair->009->head", upper)
    text = [
        f"UPDATE {table} SET {column} = CAST({column} AS TEXT)"
        for table, column in (
            ("refresh_tokens", "encrypted_token"),
            ("app_passwords", "encrypted_password"),
        )
    ]
    yield of("ciphertext_as_text", "upgrade:006->head", at("006").also(*text))
    missing = at("006").narrowed("oauth_sessions", "nonce").narrowed("app_passwords", "username")
    yield of("columns_missing", "repair->006->head", missing)
    no_index = Shape(at("009").tables, (), ("009",))
    yield of("indexes_missing", "repair->009->head", no_index)


def operators() -> Iterator[Case]:
    """Yield databases with an operator's table, column, view, trigger and index."""
    extra = (
        "CREATE TABLE refresh_tokens_bak AS SELECT * FROM refresh_tokens",
        "CREATE TABLE op_log (at TEXT, what TEXT)",
        "CREATE VIEW op_users AS SELECT user_id FROM refresh_tokens",
        (
            "CREATE TRIGGER op_trigger AFTER DELETE ON refresh_tokens "
            "BEGIN INSERT INTO op_log VALUES ('now', old.user_id); END"
        ),
        "CREATE INDEX op_index ON refresh_tokens (flow_type)",
        "ALTER TABLE refresh_tokens ADD COLUMN op_note TEXT",
        "ALTER TABLE oauth_clients ADD COLUMN op_required INTEGER NOT NULL DEFAULT 3",
    )
    for revision in ("001", "006", "009", "010", HEAD):
        action = "none" if revision == HEAD else f"upgrade:{revision}->head"
        yield of(f"operator_objects_{revision}", action, at(revision).also(*extra))
    yield of("operator_child_rows", "upgrade:005->head", at("005").also(*CHILD))


def interrupted() -> Iterator[Case]:
    """Yield files that were not closed: with a filled -wal or a hot journal."""
    for name, action, shape in (
        ("009", "upgrade:009->head", at("009")),
        ("pre06", "stamp:001->head", at("001").unversioned()),
        ("head", "none", at(HEAD, "portable")),
    ):
        yield Case(f"wal_unmerged_{name}", action, _unmerged(shape, everything=False))
        yield Case(f"wal_everything_{name}", action, _unmerged(shape, everything=True))
        yield Case(f"wal_without_shm_{name}", action, _unmerged(shape, everything=False, shm=False))
        yield Case(f"hot_journal_{name}", action, _hot_journal(shape))


def _unmerged(shape: Shape, *, everything: bool, shm: bool = True) -> Write:
    def write(path: Path) -> None:
        origin = path.with_name("origin.db")
        if not everything:
            shape.write(origin, ["journal_mode=WAL"])
        with closing(sqlite3.connect(origin, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            if everything:
                shape.fill(connection)
            connection.execute(
                "INSERT INTO audit_logs (id, timestamp, event, user_id) "
                "VALUES (999, 1, 'e', 'in-the-wal')"
            )
            connection.execute(
                "UPDATE refresh_tokens SET expires_at = 4000000000 WHERE user_id = 'alice'"
            )
            for suffix in ("", "-wal", *(["-shm"] if shm else [])):
                shutil.copy(f"{origin}{suffix}", f"{path}{suffix}")
        origin.unlink()

    return write


#: A writer that is killed within a transaction, with half of its pages written.
_DYING_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE refresh_tokens SET encrypted_token = zeroblob(20000)")
connection.execute("DELETE FROM audit_logs")
os.kill(os.getpid(), signal.SIGKILL)
"""


def _hot_journal(shape: Shape) -> Write:
    def write(path: Path) -> None:
        shape.write(path)
        done = subprocess.run([sys.executable, "-c", _DYING_WRITER, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert Path(f"{path}-journal").stat().st_size > 512, "the journal is not hot"

    return write


def all_cases() -> list[Case]:
    """Return every case of this module."""
    return [case for group in (empty, own, operators, interrupted) for case in group()]
