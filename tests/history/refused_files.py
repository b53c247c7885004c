"""Files that a start must refuse without a change, and the error code of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.history.case import Case, Write, from_bytes, from_sql, of
from tests.support.facts import HEAD
from tests.support.files import flip
from tests.support.revisions import NEXT_ID
from tests.support.shapes import Shape, at


def contradictory() -> Iterator[Case]:
    """Yield version rows that are unknown, ambiguous or do not match the tables."""
    for row in ("011", "099", NEXT_ID, "9a1b2c3d4e5f", "1", "head"):
        yield of(f"unknown_{row}", "refuse:unknown-revision", at(HEAD).recording(row))
    yield of("two_rows", "refuse:ambiguous-version", at("006").recording("005", "006"))
    yield of("three_rows", "refuse:ambiguous-version", at("010").recording("001", "005", "010"))
    wrong = (
        at("006")
        .unversioned()
        .also(
            "CREATE TABLE alembic_version (version TEXT)",
            "INSERT INTO alembic_version VALUES ('006')",
        )
    )
    yield of("version_column", "refuse:inconsistent", wrong)
    for revision in ("001", "009", "010", HEAD):
        lost = at(revision).without("refresh_tokens")
        yield of(f"no_refresh_tokens_{revision}", "refuse:inconsistent", lost)
    yield of("version_row_only", "refuse:inconsistent", Shape(versions=("005",)))
    yield of(
        "no_token_column",
        "refuse:inconsistent",
        at("009").narrowed("refresh_tokens", "encrypted_token"),
    )
    renamed = (
        "ALTER TABLE refresh_tokens RENAME COLUMN provisioning_client_id TO provisioning_client_ie"
    )
    yield of("misspelt_column", "refuse:inconsistent", at("009").also(renamed))
    columns = "session_id TEXT, user_id TEXT NOT NULL, created_at INTEGER, expires_at INTEGER"
    for name, more in (
        ("column_nobody_fills", "device TEXT NOT NULL, PRIMARY KEY (session_id)"),
        ("another_key", "PRIMARY KEY (user_id)"),
    ):
        table = f"CREATE TABLE browser_sessions ({columns}, {more})"
        shape = at("009").without("browser_sessions").also(table)
        yield of(name, "refuse:inconsistent", shape)
    view = ("DROP TABLE oauth_clients", "CREATE VIEW oauth_clients AS SELECT 1 AS id")
    yield of("view_for_a_table", "refuse:inconsistent", at("009").also(*view))


_NOTES = (
    "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)",
    "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)",
    "INSERT INTO users VALUES (1, 'somebody')",
)
_VERSION = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"


def foreign() -> Iterator[Case]:
    """Yield databases of other applications, some with tables of the same name."""
    files = {
        "users_and_notes": _NOTES,
        "with_schema_version": (
            *_NOTES,
            "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_at REAL NOT NULL)",
        ),
        "own_refresh_tokens": (
            *_NOTES,
            "CREATE TABLE refresh_tokens (id INTEGER PRIMARY KEY, user_id INTEGER, token TEXT)",
        ),
        "alembic_at_003": (
            *_NOTES,
            _VERSION,
            "INSERT INTO alembic_version VALUES ('003')",
            "CREATE TABLE app_passwords (id INTEGER PRIMARY KEY, scopes TEXT)",
        ),
        "alembic_unknown": (
            *_NOTES,
            _VERSION,
            "INSERT INTO alembic_version VALUES ('9a1b2c3d4e5f')",
        ),
        "alembic_empty": (*_NOTES, _VERSION),
        "only_a_view": ("CREATE VIEW refresh_tokens AS SELECT 1 AS user_id",),
    }
    for name, statements in files.items():
        for suffix, pragmas in (("", ()), ("_wal", ("PRAGMA journal_mode=WAL",))):
            write = from_sql(*pragmas, *statements)
            yield Case(f"foreign_{name}{suffix}", "refuse:foreign", write)


def damaged() -> Iterator[Case]:
    """Yield damaged databases and files that are no databases."""
    dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE refresh_tokens (user_id);\n"
    contents = {
        "json": b'{"refresh_tokens": []}' * 40,
        "sql_dump": dump.encode() * 40,
        "random": bytes(range(256)) * 16,
        "short": b"SQLite",
        "zeros": b"\0" * 8192,
    }
    for name, content in contents.items():
        yield Case(f"not_sqlite_{name}", "refuse:not-a-database", from_bytes(content))
    damages = {
        "truncated_half": _halve,
        "truncated_odd": lambda raw: raw[:-1234],
        "flipped_schema_page": _flip_page_type,
        "flipped_schema_text": _flip_schema_text,
    }
    for name, shape in (("pre06", at("001").unversioned()), ("009", at("009")), ("head", at(HEAD))):
        for damage, harm in damages.items():
            yield Case(f"{damage}_{name}", "refuse:corrupt", _harmed(shape, harm))
    for kind, name in (("table", "refresh_tokens"), ("index", "idx_audit_user_timestamp")):
        yield Case(f"flipped_{kind}_page", "refuse:corrupt", _flip_root(name))


def _harmed(shape: Shape, harm: Callable[[bytearray], bytes | bytearray]) -> Write:
    def write(path: Path) -> None:
        shape.write(path, ["page_size=4096"])
        path.write_bytes(harm(bytearray(path.read_bytes())))

    return write


def _halve(raw: bytearray) -> bytes:
    return bytes(raw[: len(raw) // 8192 * 4096])


def _flip_page_type(raw: bytearray) -> bytes:
    raw[100] ^= 0xFF
    return bytes(raw)


def _flip_schema_text(raw: bytearray) -> bytes:
    # No longer UTF-8, so that Python cannot decode the message of SQLite.
    raw[raw.index(b"CREATE TABLE refresh_tokens") + 4] ^= 0xFF
    return bytes(raw)


def _flip_root(name: str) -> Write:
    def write(path: Path) -> None:
        at("009").write(path)
        flip(path, name)

    return write


def all_cases() -> list[Case]:
    """Return every case of this module."""
    return [case for group in (contradictory, foreign, damaged) for case in group()]
