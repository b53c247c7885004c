"""The invariants detect violations, and the facts match the corpus."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.history import corpus
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.contents import KEY, OTHER_KEY
from tests.support.facts import SECRETS, TABLES, Lineage
from tests.support.shapes import at
from tests.support.snapshot import Snapshot, snapshot


@pytest.fixture
def upgraded(tmp_path: Path) -> tuple[Snapshot, Path]:
    """Return the snapshot of a file at 003, and the file after its start."""
    path = tmp_path / "tokens.db"
    extra = "CREATE TRIGGER op AFTER DELETE ON audit_logs BEGIN SELECT 1; END"
    at("003").also(extra, "CREATE INDEX op_index ON refresh_tokens (flow_type)").write(path)
    before = snapshot(path)
    prepare(path)
    return before, path


CHECKS: dict[str, Callable[[Snapshot, Snapshot], None]] = {
    "rows": lambda before, after: invariants.rows_survive(before, after, "003", {}),
    "structure": lambda _, after: invariants.complete_at_head(after),
    "objects of an operator": invariants.operator_objects_stay,
}
VIOLATIONS = {
    "rows": (
        "DELETE FROM refresh_tokens WHERE user_id = 'carol'",
        "UPDATE refresh_tokens SET encrypted_token = zeroblob(99) WHERE user_id = 'alice'",
        "UPDATE refresh_tokens SET scopes = replace(scopes, ':', '.')",
        "UPDATE app_passwords SET scopes = replace(scopes, '.', ':')",
        "UPDATE app_passwords SET scopes = NULL WHERE user_id = 'dora'",
        "UPDATE audit_logs SET timestamp = CAST(timestamp AS TEXT) || 'x'",
        "UPDATE oauth_sessions SET nonce = '' WHERE session_id = 'sess-plain'",
        "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'e', 'u')",
        "DROP TABLE login_flow_sessions",
    ),
    "structure": (
        "UPDATE alembic_version SET version_num = '009'",
        "DELETE FROM alembic_version",
        "DROP TABLE document_paths",
        "DROP INDEX idx_browser_sessions_user",
        "ALTER TABLE oauth_sessions DROP COLUMN nonce",
        "ALTER TABLE batch_ocr_jobs ADD COLUMN status TEXT",
    ),
    "objects of an operator": (
        "DROP TRIGGER op",
        "DROP INDEX op_index",
        "PRAGMA user_version = 9",
    ),
}


def test_a_correct_start_passes(upgraded: tuple[Snapshot, Path]) -> None:
    """Without a violation no check fails."""
    before, path = upgraded
    for check in CHECKS.values():
        check(before, snapshot(path))


@pytest.mark.parametrize(
    ("check", "statement"), [(check, text) for check in CHECKS for text in VIOLATIONS[check]]
)
def test_a_violation_is_detected(
    check: str, statement: str, upgraded: tuple[Snapshot, Path]
) -> None:
    """A lost or changed row, an incomplete structure and a lost object are errors."""
    before, path = upgraded
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
    after = snapshot(path)
    with pytest.raises((AssertionError, KeyError)):
        CHECKS[check](before, after)


def test_a_touched_file_is_detected(tmp_path: Path) -> None:
    """Another byte, mode, time or file is an error."""
    path = tmp_path / "tokens.db"
    at("003").write(path)
    before = invariants.disk(path)
    content, mode, time = before[""]
    for changed in (
        {"": (content + b"x", mode, time)},
        {"": (content, mode ^ 0o040, time)},
        {"": (content, mode, time + 1)},
        {**before, ".backup-1": (b"", mode, time)},
        {**before, "-wal": (b"frames", mode, time)},
        {},
    ):
        with pytest.raises(AssertionError):
            invariants.untouched(before, changed)
    invariants.untouched(before, {**before, "-wal": (b"", mode, time), "-shm": (b"x", mode, time)})


def test_secrets_are_found_by_their_key_only(tmp_path: Path) -> None:
    """Every encrypted column counts as a secret, and only for its key."""
    path = tmp_path / "tokens.db"
    at("010").write(path)
    found = invariants.secrets_in(snapshot(path), KEY)

    assert {table for table, _, _ in found} == set(SECRETS)
    assert invariants.secrets_in(snapshot(path), OTHER_KEY) == {}


FIELD = [
    ("stage_rev001_3fa37690", "001", "raw"),
    ("stage_rev005_15dbb263", "005", "raw"),
    ("stage_rev006_4c84d829_v0.79.1", "006", "raw"),
    ("stage_rev006p2_f2b7bf13", "006", "portable"),
    ("stage_rev008_232684e8_v0.119.0", "008", "portable"),
    ("stage_rev009_f9cd8e8f", "009", "portable"),
    ("stage_rev010_58ce64aa", "010", "portable"),
]


@pytest.mark.skipif(not corpus.ARCHIVE.exists(), reason="the corpus is not beside the checkout")
@pytest.mark.parametrize(("name", "revision", "lineage"), FIELD)
def test_the_builder_makes_what_releases_made(
    name: str, revision: str, lineage: Lineage, tmp_path: Path
) -> None:
    """A shape has the same columns as the file of the released version."""
    sidecar = json.loads(corpus.files()[f"{name}.json"])
    path = tmp_path / "tokens.db"
    at(revision, lineage).write(path)
    with closing(sqlite3.connect(path)) as connection:
        made = {t: _columns(connection, t) for t in sidecar["columns"]}
        tables = {n for (n,) in connection.execute("SELECT name FROM sqlite_master")} & set(TABLES)

    assert made == sidecar["columns"]
    assert tables == set(sidecar["columns"]) - {"alembic_version"}


def _columns(connection: sqlite3.Connection, table: str) -> list[dict[str, object]]:
    return [
        {"name": name, "type": kind, "notnull": required, "default": default, "pk": key}
        for _, name, kind, required, default, key in connection.execute(
            f"PRAGMA table_info({table})"
        )
    ]
