"""The ``alembic`` command in a checkout."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from nextcloud_mcp_server.backends.postgresql.locked import lock_key
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrations import get_current_revision, upgrade_database
from tests.migrations.database import ROOT, Database
from tests.migrations.facts import HEAD, previous
from tests.support.by_path import read_journal as read
from tests.support.files import names
from tests.support.revisions import SQL_HEAD
from tests.support.scripts import add_revision, sql_revision
from tests.support.shapes import at


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    status: int | None
    out: str
    err: str


async def alembic(*arguments: str, **environment: str) -> Result:
    """Run the command in the checkout."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "alembic",
        *arguments,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "DATABASE_URL"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Result(process.returncode, out.decode(), err.decode())


async def succeed(*arguments: str, **environment: str) -> str:
    """Run the command, check its exit status, and return its output."""
    result = await alembic(*arguments, **environment)
    assert result.status == 0, result
    assert "Traceback" not in result.err, result
    return result.out


async def test_up_and_down_with_the_database_of_the_settings(tmp_path: Path) -> None:
    """Commands use the file of TOKEN_STORAGE_DB, with the program's settings."""
    path = tmp_path / "tokens.db"
    home = {"TOKEN_STORAGE_DB": str(path)}
    await succeed("upgrade", "head", **home)
    assert get_current_revision(path) == HEAD
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("tokens.db.lock").exists()
    assert HEAD in await succeed("current", **home)
    await succeed("downgrade", "-1", **home)
    assert get_current_revision(path) == previous(HEAD)


async def test_a_typed_command_is_recorded_in_the_journal(tmp_path: Path) -> None:
    """A change has one journal entry; a command without a change has none."""
    path = tmp_path / "tokens.db"
    home = {"TOKEN_STORAGE_DB": str(path)}
    for _ in range(2):
        await succeed("upgrade", "head", **home)
    await succeed("stamp", previous(HEAD), **home)
    entries = read(path)
    assert entries is not None
    assert [(e.action, e.before, e.after, e.note) for e in reversed(entries)] == [
        ("upgrade", None, HEAD, "by alembic itself"),
        ("stamp", HEAD, previous(HEAD), "by alembic itself"),
    ]
    assert all(e.seconds is not None and e.program_version and e.host for e in entries)


def test_a_command_from_python_is_recorded_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called from Python, the journal entry has no command name."""
    path = tmp_path / "tokens.db"
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(path))
    config = Config(ROOT / "alembic.ini")
    command.upgrade(config, "head")
    command.stamp(config, previous(HEAD))
    entries = read(path)
    assert entries is not None
    assert [(e.action, e.after) for e in entries] == [
        ("alembic", previous(HEAD)),
        ("alembic", HEAD),
    ]


@pytest.mark.parametrize("name", ["a %20 b.db", "x#y?z.db"])
async def test_the_database_can_be_named_in_a_url(tmp_path: Path, name: str) -> None:
    """The path in a URL may be escaped."""
    url = f"database_url=sqlite:///{quote(str(tmp_path / name))}"
    await succeed("-x", url, "upgrade", "002")
    assert get_current_revision(tmp_path / name) == "002"
    assert "002" in await succeed("-x", url, "current")


async def test_a_plain_path_may_hold_a_question_mark(tmp_path: Path) -> None:
    """A question mark is refused in a URL and allowed in a path."""
    path = tmp_path / "x?y.db"
    refused = await alembic("-x", f"database_url=sqlite:///{path}", "upgrade", "head")
    assert refused.status
    assert "Traceback" not in refused.err
    assert names(tmp_path) == set()
    await succeed("-x", f"database_url={path}", "upgrade", "001")
    assert get_current_revision(path) == "001"


async def test_current_changes_nothing(tmp_path: Path) -> None:
    """`current` does not create a missing file."""
    path = tmp_path / "missing.db"
    assert await succeed("-x", f"database_url={path}", "current") == ""
    assert names(tmp_path) == set()


async def test_history_needs_no_database() -> None:
    """`history` lists each revision, newest first, without a database."""
    lines = (await succeed("history", TOKEN_STORAGE_DB="/nowhere/at/all.db")).splitlines()
    assert [line.partition(" -> ")[2][:3] for line in lines][-10:] == [
        f"{number:03}" for number in range(10, 0, -1)
    ]


async def test_sql_is_written_without_a_database(tmp_path: Path) -> None:
    """The output of --sql creates a database."""
    sql = await succeed("upgrade", SQL_HEAD, "--sql", TOKEN_STORAGE_DB="/nowhere/at/all.db")
    path = tmp_path / "made.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)
    assert get_current_revision(path) == SQL_HEAD
    assert "BYTEA" in await succeed(
        "-x", "database_url=postgresql://", "upgrade", "001:002", "--sql"
    )


async def test_postgresql_is_migrated_under_its_url(
    postgresql_url: str, postgresql: Database
) -> None:
    """A URL with escaped characters reaches the driver unchanged."""
    assert "%3D" in postgresql_url
    plain = postgresql_url.replace("postgresql+psycopg://", "postgresql://")
    await succeed("-x", f"database_url={plain}", "upgrade", "head")
    assert await postgresql.revision() == HEAD
    [row] = await postgresql.query("SELECT action, to_revision, note FROM migration_journal")
    assert row == ("upgrade", HEAD, "by alembic itself")
    assert HEAD in await succeed("-x", f"database_url={plain}", "current")


async def test_postgresql_is_migrated_by_one_at_a_time(
    postgresql_url: str, postgresql: Database
) -> None:
    """A second migration waits for the first one's transaction, and has nothing to do."""
    async with postgresql.engine.connect() as first, first.begin() as transaction:
        schema = (await first.exec_driver_sql("SELECT current_schema()")).scalar()
        await first.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock_key(str(schema))})")
        second = asyncio.create_task(
            succeed("-x", f"database_url={postgresql_url}", "upgrade", "head")
        )
        # It asks for the lock again and again, and holds nothing meanwhile.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(second), 4)
        assert await postgresql.shape() == {}
        await transaction.commit()
    await second
    assert await postgresql.revision() == HEAD


async def test_a_file_is_migrated_by_one_at_a_time(tmp_path: Path) -> None:
    """Three migrations of a file at once all succeed."""
    path = tmp_path / "tokens.db"
    commands = [succeed("-x", f"database_url={path}", "upgrade", "head") for _ in range(3)]
    await asyncio.gather(*commands)
    assert get_current_revision(path) == HEAD


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("mysql://u:secret@h/d", "mysql"),
        ("://secret", "database_url"),
        ("postgresql://u:secret@h:port/d", "cannot be used"),
        ("sqlite://", "empty"),
    ],
)
async def test_what_cannot_be_migrated_is_refused_in_one_line(url: str, word: str) -> None:
    """The error has no traceback and no password."""
    result = await alembic("-x", f"database_url={url}", "upgrade", "head")
    assert result.status
    assert word in result.err + result.out
    assert "secret" not in result.err + result.out
    assert "Traceback" not in result.err


def in_process() -> Config:
    """Return the configuration for Alembic's commands, called from Python."""
    return Config(ROOT / "alembic.ini")


async def test_a_command_called_in_an_event_loop_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in a thread with a loop of its own."""
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(path))
    command.upgrade(in_process(), "head")
    assert get_current_revision(path) == HEAD
    command.downgrade(in_process(), "-1")
    assert get_current_revision(path) == previous(HEAD)


@pytest.mark.parametrize("there", [True, False], ids=["at head", "missing"])
def test_looking_from_python_leaves_no_trace(
    there: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`command.current` and `command.check` write nothing and create no file."""
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(path))
    if there:
        command.upgrade(in_process(), "head")
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    command.current(in_process())
    if there:
        command.check(in_process())
    else:
        with pytest.raises(CommandError, match="not up to date"):
            command.check(in_process())
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"garbage, and no database " * 50, b"SQLite format 3"])
def test_a_file_that_is_no_database_is_refused_in_one_line(
    content: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command has the error of a start, and leaves no file; an empty file is a new one."""
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(path))
    path.write_bytes(content)
    calls = {
        "current": lambda: command.current(in_process()),
        "check": lambda: command.check(in_process()),
        "upgrade": lambda: command.upgrade(in_process(), "head"),
    }
    for name in calls if content else ("check",):
        match = "not-a-database|is not an SQLite database|not up to date"
        with pytest.raises(CommandError, match=match):
            calls[name]()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_check_accepts_old_tables_and_reports_what_is_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`alembic check` accepts the types of old releases and operators' own tables."""
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(path))
    at("008").also("CREATE TABLE op_notes (id INTEGER PRIMARY KEY, note TEXT)").write(path)
    command.upgrade(in_process(), "head")
    command.check(in_process())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE browser_sessions")
    with pytest.raises(CommandError, match="browser_sessions"):
        command.check(in_process())


@pytest.mark.parametrize("arguments", [("upgrade", "head"), ("current",), ("stamp", "head")])
def test_two_files_with_one_id_are_refused(
    arguments: tuple[str, ...], own_scripts: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alembic itself would run one of the two."""
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(path))
    first = add_revision(own_scripts, sql_revision("CREATE TABLE a (id INTEGER)"))
    first.with_name("20261102_1200_101_other.py").write_text(first.read_text())
    config = Config()
    config.set_main_option("script_location", str(own_scripts))
    with pytest.raises(CommandError, match="101 is also the id of"):
        getattr(command, arguments[0])(config, *arguments[1:])
    with pytest.raises(TokenStorageError, match="101 is also the id of"):
        upgrade_database(path)
    assert not path.exists()
