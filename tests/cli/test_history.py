"""`db history`, `db show` and `db migrate`."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.cli.db.history import history_lines
from nextcloud_mcp_server.migrate.inspect import known_history
from tests.cli.conftest import Command, Db
from tests.cli.places import ROOT, process
from tests.support.revisions import ALL, HEAD, NEWER, NEXT_ID, described

LISTED = """\
101  2026-11-23  Add migration journal
                 adds table migration_journal
010  2026-08-16  Drop registered webhooks
                 drops table registered_webhooks; indexes idx_webhooks_created, idx_webhooks_preset
                 rows: every registered webhook goes, with its table.
009  2026-07-21  Add document paths
                 adds table document_paths; index ix_document_paths_user_doc
008  2026-06-15  Add batch OCR jobs
                 adds table batch_ocr_jobs
007  2026-06-07  Add usage events (current)
                 adds table usage_events; index idx_usage_events_occurred_metric
006  2026-05-02  Add the nonce of an OAuth session
                 adds column oauth_sessions.nonce
005  2026-05-02  Add browser sessions
                 adds table browser_sessions; indexes idx_browser_sessions_user,
                   idx_browser_sessions_expires
004  2026-04-07  Write scopes with a dot
                 rows: the scopes of app passwords and login flows: every ":" in them becomes ".".
003  2026-02-27  Add login flows, and what an app password may do
                 adds table login_flow_sessions; columns app_passwords.scopes,
                   app_passwords.username; index idx_login_flow_sessions_expires
002  2026-01-13  Add app passwords
                 adds table app_passwords; index idx_app_passwords_updated
001  2025-12-17  Create the progressive-consent schema
                 adds tables refresh_tokens, audit_logs, oauth_clients, oauth_sessions,
                   schema_version, registered_webhooks; indexes idx_audit_user_timestamp,
                   idx_oauth_sessions_mcp_code, idx_webhooks_created, idx_webhooks_preset
"""
for _id in NEWER:
    _lines = history_lines([described(_id)], None, known_history(), verbose=False)
    LISTED = "".join(f"{line}\n" for line in _lines).replace(" (head)", "") + LISTED
LISTED = LISTED.replace("\n", " (head)\n", 1)


def test_history_marks_head_and_current(db: Db) -> None:
    """The revisions are listed newest first; without a database none is the current one."""
    done = db("history")
    assert (done.status, done.out, done.err) == (0, LISTED.replace(" (current)", ""), "")
    assert not db.path.exists()
    db.put("behind")
    done = db("history")
    assert (done.status, done.out, done.err) == (0, LISTED, "")


def test_history_is_printed_although_the_database_is_refused(db: Db) -> None:
    """The error is on stderr and in the exit status, or in the JSON document."""
    db.put("newer")
    done = db("history")
    assert (done.status, done.out) == (1, LISTED.replace(" (current)", ""))
    assert done.err.startswith(f"error: {db.path} is newer than this program")
    document = json.loads(db("history", "--json").out)
    assert (len(document["revisions"]), document["current"]) == (len(ALL), "999")
    assert document["error"]["code"] == "unknown-revision"


def test_history_verbose(db: Db, database: Path) -> None:
    """-v adds the docstring of each revision, and the path of its file."""
    done = db("history", "-v")
    assert "\n    Downgrade loses: the table document_paths, a cache: it fills again.\n" in done.out
    assert re.search(r"\n    File: .*/20260721_0101_009_add_document_paths\.py\n", done.out)


def test_history_as_json(db: Db) -> None:
    """With --json each revision has its parent, date, changes, loss and file."""
    db.put("behind")
    document = json.loads(db("history", "--json").out)
    assert (document["head"], document["current"]) == (HEAD, "007")
    (seventh,) = (r for r in document["revisions"] if r["id"] == "007")
    assert Path(seventh.pop("file")).is_file()
    assert seventh == {
        "id": "007",
        "parent": "006",
        "date": "2026-06-07",
        "title": "Add usage events",
        "adds": {
            "tables": ["usage_events"],
            "columns": [],
            "indexes": ["idx_usage_events_occurred_metric"],
        },
        "drops": {"tables": [], "columns": [], "indexes": []},
        "alters": [],
        "rows": "",
        "loses": "the table usage_events: every event that was counted.",
        "head": False,
        "current": True,
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, to create migrations in."""
    scripts = ROOT / "alembic"
    if not scripts.is_dir():
        pytest.skip("the scripts to copy are in a checkout")
    copy, ignored = tmp_path / "checkout", shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nextcloud_mcp_server", copy / "nextcloud_mcp_server", ignore=ignored)
    shutil.copytree(scripts, copy / "alembic", ignore=ignored)
    return copy


def test_migrate_writes_the_next_revision(checkout: Path, tmp_path: Path) -> None:
    """The migration has the next id and can be run at once, up and down."""
    title = "add user preferences table"
    done = process("db", "migrate", title, cwd=tmp_path, root=checkout)
    assert (done.status, done.err) == (0, "")
    first, *hint = done.out.splitlines()
    name = re.escape(str(checkout / "alembic" / "versions"))
    assert re.fullmatch(
        rf"created {name}/\d{{8}}_\d{{4}}_{NEXT_ID}_add_user_preferences_table\.py", first
    )
    assert hint == [
        "Write its upgrade() and downgrade(), then test both on a disposable database:",
        "  nextcloud-mcp-server db upgrade -d /tmp/test.db",
        "  nextcloud-mcp-server db downgrade -d /tmp/test.db",
        "Then check whether it may be merged:",
        "  nextcloud-mcp-server db lint --fix --strict",
    ]
    nothing = process("db", "migrate", "???", cwd=tmp_path, root=checkout)
    assert (nothing.status, nothing.out) == (1, "")
    up = process("db", "upgrade", "-d", "test.db", cwd=tmp_path, root=checkout)
    assert (up.status, up.out.split(" in ")[0]) == (
        0,
        f"created {tmp_path}/test.db at revision {NEXT_ID}",
    ), up.err
    down = process("db", "downgrade", "-d", "test.db", cwd=tmp_path, root=checkout, stdin=b"y\n")
    assert (down.status, down.out) == (
        0,
        f"downgraded {tmp_path}/test.db from {NEXT_ID} to {HEAD}\n",
    ), down.err
    assert f"  {NEXT_ID}  Add user preferences table. Loses: " in down.err.replace("add", "Add", 1)
    second = process("db", "migrate", "--json", "drop it", cwd=tmp_path, root=checkout)
    assert json.loads(second.out)["file"].endswith(f"_{int(NEXT_ID) + 1}_drop_it.py")


def test_show_prints_the_sql_of_one_revision(command: Command) -> None:
    """The default is the upgrade for SQLite, as one transaction that can be run as printed."""
    done = command("db", "show", "005")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
    assert "CREATE TABLE IF NOT EXISTS browser_sessions (" in lines
    assert "UPDATE alembic_version SET version_num='005' WHERE" in done.out
    with closing(sqlite3.connect(":memory:")) as connection:
        for number in ALL[: ALL.index("005") + 1]:
            connection.executescript(command("db", "show", number).out)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            ("005",)
        ]
        connection.execute("SELECT session_id FROM browser_sessions")


def test_show_down_and_for_postgresql(command: Command) -> None:
    """--down prints the downgrade, --dialect the SQL of the other engine, --json a document."""
    assert "DROP TABLE IF EXISTS browser_sessions;" in command("db", "show", "005", "--down").out
    assert "BYTEA" in command("db", "show", "002", "--dialect", "postgresql").out
    assert "BLOB" in command("db", "show", "002", "--dialect", "sqlite").out
    assert "UPDATE app_passwords SET scopes" in command("db", "show", "004").out
    assert "DELETE FROM alembic_version" in command("db", "show", "001", "--down").out
    arguments = ("db", "show", "head", "--down", "--dialect", "postgresql", "--json")
    document = json.loads(command(*arguments).out)
    assert document.pop("sql").startswith("BEGIN;\n")
    assert document == {"revision": HEAD, "dialect": "postgresql", "before": HEAD, "after": ALL[-2]}


@pytest.mark.parametrize("revision", ["999", "base", "011", "5", "../001", "\x1b[31m"])
def test_show_of_no_revision(revision: str, command: Command) -> None:
    """Anything that is not an id is refused with the code of an unknown revision."""
    done = command("db", "show", revision)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: There is no revision ")
    assert "\x1b" not in done.err
    document = json.loads(command("db", "show", revision, "--json").out)
    assert document["error"]["code"] == "unknown-revision"


def test_migrate_renumbers(checkout: Path, tmp_path: Path) -> None:
    """If two migrations have the same id, --renumber moves one to the end of the history."""
    (checkout / "tests" / "migrations").mkdir(parents=True)
    for title in ("add a table", "add another"):
        process("db", "migrate", title, cwd=tmp_path, root=checkout)
    versions = checkout / "alembic" / "versions"
    (second,) = versions.glob(f"*_{int(NEXT_ID) + 1}_add_another.py")
    text = second.read_text("utf-8").replace(f"{int(NEXT_ID) + 1}", "@").replace(NEXT_ID, HEAD)
    twin = second.with_name(second.name.replace(f"_{int(NEXT_ID) + 1}_", f"_{NEXT_ID}_"))
    twin.write_text(text.replace("@", NEXT_ID), "utf-8")
    second.unlink()
    done = process("db", "migrate", "--renumber", twin.name, cwd=tmp_path, root=checkout)
    assert (done.status, done.err) == (0, "")
    assert done.out == (
        f"renamed {twin.name} to {second.name}\nThen: nextcloud-mcp-server db lint --fix --strict\n"
    )
    again = process("db", "migrate", "--renumber", second.name, cwd=tmp_path, root=checkout)
    assert again.out == "It is at the end of the history already: nothing to do\n"


def test_missing_migrations_are_an_error(checkout: Path, tmp_path: Path) -> None:
    """Every command that needs the migrations fails with the code `no-migrations`."""
    shutil.rmtree(checkout / "alembic")
    commands = ("current", "check", "upgrade", "history", "downgrade", "backup", "lint", "show 001")
    for name in commands:
        place = () if name in {"lint", "show 001"} else ("-d", "t.db")
        done = process("db", *name.split(), *place, "--json", cwd=tmp_path, root=checkout)
        assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "no-migrations")
