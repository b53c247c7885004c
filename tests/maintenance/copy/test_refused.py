"""What is refused, and that nothing is copied then."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.copy import engines
from nextcloud_mcp_server.maintenance.copy.run import Copy
from nextcloud_mcp_server.migrations import (
    downgrade_database,
    get_current_revision,
    upgrade_database,
)
from tests.maintenance.copy.conftest import (
    contents,
    copy,
    execute,
    fill,
    problems_of,
    settings,
)
from tests.support.contents import KEY, OTHER_KEY
from tests.support.postgresql import Server

#: A statement that damages a value, and the problem.
DAMAGE = [
    (
        "UPDATE refresh_tokens SET expires_at = 1.5 WHERE user_id = 'alice'",
        ("refresh_tokens", "user_id alice", "expires_at"),
        "is a floating-point number, not a whole number",
    ),
    (
        "UPDATE refresh_tokens SET created_at = 'soon' WHERE user_id = 'carol'",
        ("refresh_tokens", "user_id carol", "created_at"),
        "is text, not a whole number",
    ),
    (
        "UPDATE refresh_tokens SET scopes = x'6162' WHERE user_id = 'carol'",
        ("refresh_tokens", "user_id carol", "scopes"),
        "is bytes, not text",
    ),
    (
        "UPDATE app_passwords SET username = 'a' || char(0) WHERE user_id = 'alice'",
        ("app_passwords", "user_id alice", "username"),
        "contains a null character",
    ),
    (
        "UPDATE app_passwords SET username = CAST(x'41ff' AS TEXT) WHERE user_id = 'alice'",
        ("app_passwords", "user_id alice", "username"),
        "is not valid UTF-8",
    ),
    (
        "UPDATE app_passwords SET encrypted_password = 7 WHERE user_id = 'alice'",
        ("app_passwords", "user_id alice", "encrypted_password"),
        "is a whole number, not encrypted bytes",
    ),
    (
        "UPDATE oauth_sessions SET is_provisioning = 2 WHERE session_id = 'sess-code'",
        ("oauth_sessions", f"session_id {hashed('sess-code')}", "is_provisioning"),
        "is neither 0 nor 1",
    ),
    (
        "UPDATE usage_events SET occurred_at = 'yesterday' WHERE event_id = 'event-1'",
        ("usage_events", "event_id event-1", "occurred_at"),
        "is not a time as in 2026-01-31 12:00:00",
    ),
]


@pytest.mark.parametrize(("statement", "place", "reason"), DAMAGE)
def test_a_value_that_does_not_fit_is_named(
    statement: str, place: tuple[str, str, str], reason: str, source: Path, schema: str
) -> None:
    """Table, row, column and reason are listed, and the target gets no row."""
    execute(source, statement)
    code, problems = problems_of(source, schema)
    assert code == "unreadable"
    assert [tuple(one) for one in problems.first] == [(*place, reason)]
    assert connect(schema).inspect().structure.tables == {}


def test_a_number_for_a_smaller_column_is_named(source: Path, schema: str, target: Path) -> None:
    """An id of more bits than the server's column is refused there, and not by another file."""
    execute(source, f"UPDATE audit_logs SET id = {2**31} WHERE id = 7")
    work = Copy(settings(source, KEY), settings(schema, KEY))
    columns = {c.name: c for part in work.parts if part.table == "audit_logs" for c in part.columns}
    if columns["id"].kind.convert_all([2**31]) is None:
        _, problems = problems_of(source, schema)
        [only] = problems.first
        assert (only.row, only.column) == (f"id {2**31}", "id")
    copy(source, target)
    assert contents(target) == contents(source)


def test_a_null_key_is_named(tmp_path: Path, schema: str) -> None:
    """A NULL in the key, which early tables allow, is refused."""
    path = tmp_path / "early.db"
    upgrade_database(path)
    execute(
        path,
        "DROP TABLE app_passwords",
        "CREATE TABLE app_passwords (user_id TEXT PRIMARY KEY, encrypted_password BLOB NOT NULL, "
        "created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, scopes TEXT, username TEXT, "
        "server TEXT, refused_at INTEGER, last_used_at INTEGER, app_password_name TEXT)",
        "CREATE INDEX idx_app_passwords_updated ON app_passwords (updated_at)",
        "INSERT INTO app_passwords (encrypted_password, created_at, updated_at) "
        "VALUES (x'00', 1, 1)",
    )
    work = Copy(settings(path), settings(schema), without_keys=True)
    found: list[object] = []
    with pytest.raises(TokenStorageError) as caught:
        work.run(lambda problems: found.extend(problems.first))
    assert caught.value.code == "unreadable"
    assert found == [("app_passwords", "user_id NULL", "user_id", "is NULL")]


def test_a_value_that_must_be_unique_is_named(tmp_path: Path, schema: str) -> None:
    """A client that is there twice, which a table without the constraint allows, is refused."""
    path = tmp_path / "early.db"
    upgrade_database(path)
    execute(
        path,
        "DROP TABLE oauth_clients",
        "CREATE TABLE oauth_clients (id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, "
        "encrypted_client_secret BLOB NOT NULL, client_id_issued_at INTEGER NOT NULL, "
        "client_secret_expires_at INTEGER NOT NULL, redirect_uris TEXT NOT NULL, "
        "encrypted_registration_access_token BLOB, registration_client_uri TEXT, "
        "created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL)",
        *(
            f"INSERT INTO oauth_clients VALUES ({n}, '{client}', x'00', 1, 1, '', NULL, NULL, 1, 1)"
            for n, client in enumerate(("one", "two", "one"), start=1)
        ),
    )
    found: list[object] = []
    with pytest.raises(TokenStorageError):
        Copy(settings(path), settings(schema), without_keys=True).run(
            lambda problems: found.extend(problems.first)
        )
    reason = "is in another row, too"
    assert found == [("oauth_clients", f"id {n}", "client_id", reason) for n in (1, 3)]


def test_text_that_is_not_valid_is_found_among_other_rows(
    source: Path, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row far behind others is the only problem, and every row is read once."""
    monkeypatch.setattr(engines, "BATCH", 2)
    execute(source, "UPDATE audit_logs SET event = CAST(x'41ff' AS TEXT) WHERE id = 16")
    _, problems = problems_of(source, schema)
    assert [one.row for one in problems.first] == ["id 16"]
    assert problems.number == 1


@pytest.mark.parametrize("side", ["_SqliteSource", "_PostgresTarget"])
def test_an_error_is_named_after_its_side(
    side: str, source: Path, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or a lost connection names the database that has it."""
    calls = []

    def fail(*_: object) -> Iterator[engines.Rows]:
        calls.append(1)
        # The first time reads the source to check it.
        if side == "_PostgresTarget" or len(calls) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        yield from ()

    monkeypatch.setattr(getattr(engines, side), "batches", fail)
    with pytest.raises(TokenStorageError) as caught:
        copy(source, schema)
    assert caught.value.code == "disk-full"
    named = str(source) if side == "_SqliteSource" else str(schema)
    assert named in caught.value.message


def test_all_problems_are_counted_and_the_first_are_listed(source: Path, schema: str) -> None:
    """A hundred are named; the number is that of all."""
    execute(
        source,
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1149) "
        "INSERT INTO audit_logs (id, timestamp, event, user_id) SELECT i, 0.5, 'e', 'u' FROM n",
    )
    _, problems = problems_of(source, schema)
    assert (len(problems.first), problems.number) == (100, 150)


@pytest.mark.parametrize("behind", ["010", "005"])
def test_a_source_that_is_behind_is_refused(behind: str, source: Path, schema: str) -> None:
    """The message has the command that upgrades it, and it is not upgraded."""
    downgrade_database(source, behind)
    with pytest.raises(TokenStorageError) as caught:
        copy(source, schema)
    assert caught.value.code == "upgrade-pending"
    assert f"nextcloud-mcp-server db upgrade -d {source}" in caught.value.remedy
    assert get_current_revision(source) == behind


def test_a_missing_source_is_refused(tmp_path: Path, schema: str) -> None:
    """There is nothing to copy, and no file is made."""
    with pytest.raises(TokenStorageError) as caught:
        copy(tmp_path / "none.db", schema)
    assert caught.value.code == "bad-path"
    assert not list(tmp_path.iterdir())


def test_a_target_with_rows_is_refused(source: Path, other: str | Path) -> None:
    """A second copy changes nothing, and names the tables that have rows."""
    copy(source, other)
    with pytest.raises(TokenStorageError, match="3 rows in app_passwords") as caught:
        copy(source, other)
    assert caught.value.code == "conflict"


def test_a_target_with_rows_is_not_upgraded(source: Path, target: Path) -> None:
    """An older file with rows is refused before a migration."""
    fill(target)
    downgrade_database(target, "010")
    with pytest.raises(TokenStorageError) as caught:
        copy(source, target)
    assert (caught.value.code, get_current_revision(target)) == ("conflict", "010")


def test_rows_that_come_after_the_first_look_are_found(
    source: Path, other: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stores a row in the target before the transaction is not overwritten."""
    copied = Copy(settings(source, KEY), settings(other, KEY))
    upgrade_database(other)
    monkeypatch.setattr(Copy, "_check_target", lambda _: None)
    row = "INSERT INTO browser_sessions VALUES ('s', 'alice', 1, 2)"
    with connect(other).lock(5) as locked:
        locked.transact(lambda transaction: transaction.execute(row))
    with pytest.raises(TokenStorageError, match="1 row in browser_sessions") as caught:
        copied.run()
    assert caught.value.code == "conflict"


def test_an_empty_target_at_an_older_revision_is_upgraded(source: Path, target: Path) -> None:
    """The rows of its journal are no obstacle."""
    upgrade_database(target)
    downgrade_database(target, "010")
    upgrade_database(target)
    copy(source, target)
    assert contents(target) == contents(source)


def test_a_foreign_target_is_refused(source: Path, target: Path) -> None:
    """Another application's file is not filled."""
    execute(target, "CREATE TABLE notes (id INTEGER)")
    with pytest.raises(TokenStorageError) as caught:
        copy(source, target)
    assert caught.value.code == "foreign"


def test_a_database_is_not_copied_to_itself(source: Path, tmp_path: Path) -> None:
    """A link to the source is the source."""
    link = tmp_path / "link.db"
    link.symlink_to(source)
    with pytest.raises(TokenStorageError) as caught:
        copy(source, link)
    assert (caught.value.code, caught.value.exit_status) == ("bad-input", 2)


def test_without_a_key_secrets_are_not_copied(source: Path, schema: str) -> None:
    """A copy whose secrets nobody can open would be found out too late."""
    with pytest.raises(TokenStorageError) as caught:
        Copy(settings(source), settings(schema)).run()
    assert caught.value.code == "key-missing"
    assert "--without-keys" in caught.value.remedy
    assert Copy(settings(source), settings(schema), without_keys=True).run().secrets is None


def test_with_a_wrong_key_secrets_are_not_copied(source: Path, schema: str) -> None:
    """A key that opens none of them is refused as at a start."""
    with pytest.raises(TokenStorageError) as caught:
        copy(source, schema, OTHER_KEY)
    assert caught.value.code == "wrong-key"


def test_a_secret_that_no_key_opens_is_named(source: Path, schema: str) -> None:
    """One of many is found, though the keys open the others."""
    execute(source, "UPDATE app_passwords SET encrypted_password = x'00' WHERE user_id = 'dora'")
    code, problems = problems_of(source, schema)
    assert code == "undecryptable"
    assert [one[:3] for one in problems.first] == [
        ("app_passwords", "user_id dora", "encrypted_password")
    ]


def test_a_file_without_secrets_needs_no_key(tmp_path: Path, schema: str) -> None:
    """No key is asked for, and none is made."""
    path = tmp_path / "empty.db"
    upgrade_database(path)
    done = Copy(settings(path), settings(schema)).run()
    assert (sum(done.rows.values()), done.secrets) == (0, None)
    assert not path.with_name("empty.db.key").exists()


def test_the_key_beside_the_source_is_used(source: Path, schema: str) -> None:
    """A key file beside a database proves its secrets, and the target does not get it."""
    key = source.with_name("source.db.key")
    key.touch(0o600)
    key.write_text(KEY)
    work = Copy(settings(source), settings(schema))
    assert (work.run().secrets, work.key_file) == (19, key)


def test_a_file_in_use_is_refused(source: Path, schema: str) -> None:
    """What a running server stores later would be lost, so it has to be said."""
    hold = connect(source).hold()
    assert hold is not None
    try:
        with pytest.raises(TokenStorageError) as caught:
            copy(source, schema)
        assert caught.value.code == "in-use"
        assert copy(source, schema, while_running=True).rows["app_passwords"] == 3
    finally:
        hold.release()


def test_a_time_of_a_server_that_no_file_has_is_named(
    source: Path, target: Path, postgresql_server: Server
) -> None:
    """'infinity' in a TIMESTAMP is refused, and not an error of the driver."""
    name, url = postgresql_server.schema()
    copy(source, url)
    postgresql_server.execute(f"UPDATE {name}.usage_events SET occurred_at = 'infinity'")
    code, problems = problems_of(url, target)
    assert (code, {one.column for one in problems.first}) == ("unreadable", {"occurred_at"})
    assert not target.exists()


def test_a_row_that_is_deleted_by_a_trigger_is_missed(source: Path, target: Path) -> None:
    """A trigger of an operator in the target that removes a row stops the copy."""
    upgrade_database(target)
    execute(
        target,
        "CREATE TRIGGER t AFTER INSERT ON app_passwords BEGIN "
        "DELETE FROM app_passwords WHERE user_id = 'dora'; END",
    )
    with pytest.raises(TokenStorageError, match="3 rows sent, 2 there") as caught:
        copy(source, target)
    assert caught.value.code == "ignored"
    assert not any(contents(target).values())


def test_a_password_is_in_no_message(source: Path) -> None:
    """A command to type names a variable where a URL has a password."""
    url = "postgresql://user:hunter2@db.example.org/tokens"
    work = Copy(settings(url), settings(source))
    assert work.command == f"db copy --from postgresql://user@db.example.org/tokens --to {source}"
    assert "hunter2" not in f"{work.source} {work.target}"
    with closing(sqlite3.connect(source)) as connection:
        assert connection.execute("SELECT count(*) FROM app_passwords").fetchone() == (3,)
