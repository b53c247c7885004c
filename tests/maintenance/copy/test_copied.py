"""What a copy does beside the rows: sequences, the journal, what stays behind."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from psycopg import errors

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.copy import engines
from nextcloud_mcp_server.maintenance.copy.values import Part
from nextcloud_mcp_server.migrate import journal
from nextcloud_mcp_server.migrations import upgrade_database
from tests.maintenance.copy.conftest import contents, copy, execute
from tests.support.contents import KEY, NOW, encrypted
from tests.support.postgresql import Server

Rows = engines.Rows

TARGETS = ["_SqliteTarget", "_PostgresTarget"]


def test_every_value_comes_back(source: Path, schema: str, target: Path) -> None:
    """Rows of every kind go to a server and back, and every secret is decrypted."""
    there, back = copy(source, schema), copy(schema, target)
    wanted = {name: set(rows) for name, rows in contents(source).items()}
    # A time is written as the releases wrote it.
    wanted["usage_events"] = {
        (event, "2026-06-07T18:20:00+00:00", *rest) for event, _, *rest in wanted["usage_events"]
    }
    assert contents(target) == wanted
    assert there.secrets == back.secrets == 19


@pytest.mark.parametrize("both", ["sqlite", "postgresql"])
def test_a_copy_to_the_same_engine_is_equal(
    both: str, source: Path, target: Path, postgresql_server: Server
) -> None:
    """From file to file, and from server to server."""
    if both == "sqlite":
        copy(source, target)
        assert contents(target) == contents(source)
        return
    first, second = (postgresql_server.schema()[1] for _ in range(2))
    copy(source, first)
    assert copy(first, second).rows == copy(second, target).rows


def test_the_next_id_is_a_new_one(source: Path, postgresql_server: Server) -> None:
    """The sequences of a server go on above the greatest id."""
    name, url = postgresql_server.schema()
    copy(source, url)
    for table, columns, values in [
        ("audit_logs", "timestamp, event, user_id", "1, 'e', 'u'"),
        (
            "oauth_clients",
            (
                "client_id, encrypted_client_secret, client_id_issued_at, "
                "client_secret_expires_at, redirect_uris, created_at, updated_at"
            ),
            "'new', 'x', 1, 1, '[]', 1, 1",
        ),
    ]:
        [(greatest,)] = postgresql_server.execute(f"SELECT max(id) FROM {name}.{table}")
        [(made,)] = postgresql_server.execute(
            f"INSERT INTO {name}.{table} ({columns}) VALUES ({values}) RETURNING id"
        )
        assert made == greatest + 1


def test_the_journal_of_the_target_is_its_own(source: Path, other: str | Path) -> None:
    """It has the creation and the copy, without the entries of the source."""
    copy(source, other)
    entries = journal.read(connect(other)) or []
    assert [entry.action for entry in entries] == ["copy", "create"]
    assert entries[0].note == f"from {source}: 43 rows of 10 tables"


def test_what_stays_behind_is_listed(source: Path, schema: str) -> None:
    """An operator's own objects are named, with the rows of a table."""
    execute(
        source,
        "CREATE TABLE op_log (line TEXT)",
        "INSERT INTO op_log VALUES ('a'), ('b')",
        "ALTER TABLE app_passwords ADD COLUMN op_note TEXT",
        "CREATE VIEW op_view AS SELECT 1",
        "CREATE INDEX op_index ON app_passwords (username)",
        "CREATE TRIGGER op_trigger AFTER DELETE ON op_log BEGIN SELECT 1; END",
    )
    with closing(sqlite3.connect(source)) as connection:
        [entries] = connection.execute("SELECT count(*) FROM migration_journal").fetchone()
    assert copy(source, schema).left == [
        ("column", "app_passwords.op_note", None),
        ("index", "op_index on app_passwords", None),
        ("table", "migration_journal", entries),
        ("table", "op_log", 2),
        ("trigger", "op_trigger on op_log", None),
        ("view", "op_view", None),
    ]


def test_what_stays_behind_on_a_server_is_listed(
    source: Path, target: Path, postgresql_server: Server
) -> None:
    """Other tables of the schema are named, too; they may be another application's."""
    name, url = postgresql_server.schema()
    copy(source, url)
    postgresql_server.execute(
        f"CREATE TABLE {name}.notes (id int)",
        f"CREATE VIEW {name}.op_view AS SELECT 1",
        f"ALTER TABLE {name}.app_passwords ADD COLUMN op_note text",
    )
    assert copy(url, target).left == [
        ("column", "app_passwords.op_note", None),
        ("table", "migration_journal", 2),
        ("table", "notes", 0),
        ("view", "op_view", None),
    ]


def test_the_source_is_read_as_of_one_moment(
    source: Path, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that a server stores during the copy is not in it, and the server does not wait."""
    execute(source, "PRAGMA journal_mode = WAL")
    before, write = contents(source), engines._PostgresTarget.write

    def late(self: Any, part: Part, batches: Iterable[Rows]) -> None:
        row = f"INSERT INTO browser_sessions VALUES ('{part.table}', 'alice', 1, 2)"
        execute(source, row)
        write(self, part, batches)

    monkeypatch.setattr(engines._PostgresTarget, "write", late)
    done = copy(source, schema)
    assert done.rows["browser_sessions"] == len(before["browser_sessions"])
    assert len(contents(source)["browser_sessions"]) > done.rows["browser_sessions"]


def test_nobody_writes_to_a_server_during_the_copy(
    source: Path, postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer waits for the commit, so that what is compared is what was sent."""
    name, url = postgresql_server.schema()
    write, refused = engines._PostgresTarget.write, []

    def intruded(self: Any, part: Part, batches: Iterable[Rows]) -> None:
        try:
            postgresql_server.execute(
                "SET lock_timeout = '50ms'",
                f"INSERT INTO {name}.browser_sessions VALUES ('late', 'alice', 1, 2)",
            )
        except errors.LockNotAvailable:
            refused.append(part.table)
        write(self, part, batches)

    upgrade_database(url)
    monkeypatch.setattr(engines._PostgresTarget, "write", intruded)
    assert len(copy(source, url).rows) == len(refused)


def test_what_a_crashed_writer_left_is_rolled_back_in_a_copy(
    source: Path, schema: str, tmp_path: Path
) -> None:
    """A source with a hot journal is read as it will be after its recovery, and stays as it is."""
    execute(source, "PRAGMA journal_mode = DELETE")
    crashed, wanted = tmp_path / "crashed.db", contents(source)
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE audit_logs SET event = 'unfinished' || hex(randomblob(4000))")
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{source}{suffix}", f"{crashed}{suffix}")
            Path(f"{crashed}{suffix}").chmod(0o600)
        connection.execute("ROLLBACK")
    before = crashed.read_bytes()
    assert before != source.read_bytes()
    assert copy(crashed, schema).rows["audit_logs"] == len(wanted["audit_logs"])
    assert crashed.read_bytes() == before
    target = tmp_path / "target.db"
    copy(schema, target)
    assert contents(target)["audit_logs"] == wanted["audit_logs"]


def test_the_source_keeps_its_bytes(source: Path, schema: str) -> None:
    """Nothing is written to a source."""
    before = source.read_bytes()
    copy(source, schema)
    assert source.read_bytes() == before


@pytest.mark.parametrize("case", [(n, h) for n in TARGETS for h in ("changed", "lost", "twice")])
def test_a_row_that_is_harmed_on_its_way_is_found(
    case: tuple[str, str], source: Path, target: Path, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison before the commit sees one changed, lost or doubled row of a table."""
    name, harm = case
    kind: Any = getattr(engines, name)
    write = kind.write

    def harmed(batches: Iterable[Rows]) -> Iterator[Rows]:
        for rows in batches:
            first, *others = rows
            if harm == "changed":
                first = (*first[:2], first[2] + 1, *first[3:])
            elif harm == "twice":
                others.append(("another", *first[1:]))
            yield others if harm == "lost" else [first, *others]

    def harming(self: Any, part: Part, batches: Iterable[Rows]) -> None:
        write(self, part, harmed(batches) if part.table == "browser_sessions" else batches)

    monkeypatch.setattr(kind, "write", harming)
    place = target if name == "_SqliteTarget" else schema
    with pytest.raises(TokenStorageError, match="browser_sessions") as caught:
        copy(source, place)
    assert caught.value.code == "ignored"
    monkeypatch.undo()
    assert copy(source, place).rows["browser_sessions"] == 2


def test_many_rows_are_copied_in_a_moment(
    source: Path, schema: str, target: Path, record_property: Any
) -> None:
    """A hundred thousand rows, half of them tokens, go to a server and back in a minute."""
    number, token = 50_000, encrypted("rt")
    with closing(sqlite3.connect(source)) as connection:
        connection.executemany(
            "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
            "VALUES (?, ?, ?, ?)",
            ((f"user-{n}", token, NOW, NOW) for n in range(number)),
        )
        connection.executemany(
            "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (?, 'e', ?)",
            ((NOW, f"user-{n}") for n in range(number)),
        )
        connection.commit()
    begun = time.monotonic()
    there = copy(source, schema, KEY)
    back = copy(schema, target, KEY)
    assert there.rows == back.rows
    assert there.rows["refresh_tokens"] == number + 12
    rows = sum(there.rows.values())
    record_property("rows_per_second_to_server", round(rows / there.seconds))
    record_property("rows_per_second_to_file", round(rows / back.seconds))
    assert time.monotonic() - begun < 60
