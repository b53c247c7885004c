"""The installed wheel, in an empty folder of a machine that knows nothing of the checkout."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.wheel.conftest import CHECKOUT, Installed
from tests.wheel.serving import serving

REVISIONS = sorted(
    name.split("_")[2] for name in (p.name for p in (CHECKOUT / "alembic/versions").glob("2*.py"))
)
HEAD, BEFORE = REVISIONS[-1], REVISIONS[-2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to type commands in."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return empty


@pytest.fixture
def database(installed: Installed, tmp_path: Path) -> Path:
    """A database at head, made by the installed ``db upgrade``."""
    path = tmp_path / "tokens.db"
    done = installed.run("db", "upgrade", "-d", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return path


def _revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        [(revision,)] = connection.execute("SELECT version_num FROM alembic_version")
    return str(revision)


@pytest.fixture
def default_place() -> Iterator[None]:
    """Take back what a server without configuration makes in ``/app``, where root may."""
    app = Path("/app")
    if app.exists():
        pytest.skip("/app is somebody's: a server without configuration would use it")
    yield
    shutil.rmtree(app, ignore_errors=True)


@pytest.mark.usefixtures("default_place")
def test_the_server_starts_with_no_configuration(installed: Installed, folder: Path) -> None:
    """On a fresh machine the bare command makes its database at head, serves, and says ready."""
    with serving(installed, folder) as (ready, server):
        assert (ready["revision"], ready["head"]) == (HEAD, HEAD)
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=30)

    assert server.returncode == 0
    assert "Traceback" not in said


def test_the_server_uses_the_database_it_is_told(installed: Installed, folder: Path) -> None:
    """``TOKEN_STORAGE_DB`` names the file, and a clean stop leaves it whole, without a WAL."""
    database = folder / "data" / "tokens.db"
    with serving(installed, folder, TOKEN_STORAGE_DB=str(database)) as (_, server):
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)

    assert _revision(database) == HEAD
    assert not database.with_name("tokens.db-wal").exists()


def test_a_failed_start_is_one_line_and_a_remedy(installed: Installed, folder: Path) -> None:
    """A file that is no database makes the start exit 1, without a traceback, and stays."""
    bad = folder / "tokens.db"
    bad.write_text("not a database\n" * 100)
    done = installed.run("run", "--port", "0", cwd=folder, settings={"TOKEN_STORAGE_DB": str(bad)})

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(bad) in done.stderr
    assert bad.read_text() == "not a database\n" * 100


def test_current_history_and_check_read(installed: Installed, folder: Path, database: Path) -> None:
    """``db current``, ``db history`` and ``db check`` tell where a database at head stands."""
    current = installed.run("db", "current", "-d", str(database), cwd=folder)
    history = installed.run("db", "history", "-d", str(database), cwd=folder)
    check = installed.run("db", "check", "-d", str(database), cwd=folder)

    assert (current.returncode, history.returncode, check.returncode) == (0, 0, 0)
    assert HEAD in current.stdout
    assert all(revision in history.stdout for revision in REVISIONS)


def test_json_is_one_document(installed: Installed, folder: Path, database: Path) -> None:
    """``--json`` prints one document on stdout, for each command that reads."""
    for command in ("current", "history", "check"):
        done = installed.run("db", command, "--json", "-d", str(database), cwd=folder)
        assert json.loads(done.stdout) is not None


def test_downgrade_check_and_upgrade_walk(
    installed: Installed, folder: Path, database: Path
) -> None:
    """One step down makes ``db check`` exit 3, and ``db upgrade`` walks back to head."""
    settings = {"TOKEN_STORAGE_DB": str(database)}
    down = installed.run("db", "downgrade", "--yes", cwd=folder, settings=settings)
    assert (down.returncode, _revision(database)) == (0, BEFORE), down.stderr

    assert installed.run("db", "check", cwd=folder, settings=settings).returncode == 3
    up = installed.run("db", "upgrade", "--revision", HEAD, cwd=folder, settings=settings)
    assert (up.returncode, _revision(database)) == (0, HEAD), up.stderr


def test_downgrade_reads_a_piped_answer(installed: Installed, folder: Path, database: Path) -> None:
    """A piped n, and a closed input, leave the database at head; a piped y goes down."""
    command = ("db", "downgrade", "-d", str(database))
    assert installed.run(*command, cwd=folder, stdin="n\n").returncode == 1
    assert installed.run(*command, cwd=folder).returncode == 1
    assert _revision(database) == HEAD

    assert installed.run(*command, cwd=folder, stdin="y\n").returncode == 0
    assert _revision(database) == BEFORE


def test_the_reset_of_the_documentation(installed: Installed, folder: Path, database: Path) -> None:
    """Down to base and up again is an empty database at head."""
    down = installed.run(
        "db", "downgrade", "-d", str(database), "--revision", "base", "--yes", cwd=folder
    )
    up = installed.run("db", "upgrade", "-d", str(database), cwd=folder)

    assert (down.returncode, up.returncode, _revision(database)) == (0, 0, HEAD)


def test_stamp_refuses_what_the_tables_deny(
    installed: Installed, folder: Path, database: Path
) -> None:
    """``db stamp`` takes the true revision, and refuses one that the tables contradict."""
    true = installed.run("db", "stamp", HEAD, "-d", str(database), cwd=folder)
    unknown = installed.run("db", "stamp", "999", "-d", str(database), cwd=folder)

    assert true.returncode == 0, true.stderr
    assert (unknown.returncode, _revision(database)) == (1, HEAD)


def test_backup_is_a_database_of_its_own(
    installed: Installed, folder: Path, database: Path
) -> None:
    """``db backup`` leaves a private copy at the same revision beside the database."""
    done = installed.run("db", "backup", "-d", str(database), cwd=folder)
    assert done.returncode == 0, done.stderr

    [backup] = database.parent.glob("tokens.db.backup-*-manual")
    assert _revision(backup) == HEAD
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_backup_is_listed_and_restored(
    installed: Installed, folder: Path, database: Path
) -> None:
    """``db backups`` lists what ``db backup`` made, and ``db restore`` brings it back."""
    there = ("-d", str(database))
    assert installed.run("db", "backup", *there, cwd=folder).returncode == 0
    [backup] = database.parent.glob("tokens.db.backup-*-manual")
    assert installed.run("db", "downgrade", "--yes", *there, cwd=folder).returncode == 0
    assert _revision(database) == BEFORE

    assert backup.name in installed.run("db", "backups", *there, cwd=folder).stdout
    done = installed.run("db", "restore", str(backup), "--yes", *there, cwd=folder)
    assert (done.returncode, _revision(database)) == (0, HEAD), done.stderr
    assert "restore" in installed.run("db", "log", *there, cwd=folder).stdout


def test_the_doctor_names_what_repair_mends(
    installed: Installed, folder: Path, database: Path
) -> None:
    """A lost version row is found by ``db doctor`` and put back by ``db repair``."""
    there = ("-d", str(database))
    assert installed.run("db", "doctor", *there, cwd=folder).returncode == 0
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO alembic_version VALUES ('001')")

    sick = installed.run("db", "doctor", *there, cwd=folder)
    assert sick.returncode == 1
    assert "db repair" in sick.stdout
    done = installed.run("db", "repair", "--yes", *there, cwd=folder)
    assert (done.returncode, _revision(database)) == (0, HEAD), done.stderr
    assert installed.run("db", "doctor", *there, cwd=folder).returncode == 0


def test_migrate_says_that_it_needs_a_checkout(installed: Installed, folder: Path) -> None:
    """Outside a checkout ``db migrate`` writes nothing and says what it needs."""
    done = installed.run("db", "migrate", "add user preferences table", cwd=folder)

    assert done.returncode == 1
    assert "checkout" in done.stderr
    assert list(folder.iterdir()) == []


def test_the_migrations_are_shown_and_linted(installed: Installed, folder: Path) -> None:
    """``db show`` and ``db lint`` work on the installed scripts, and lint writes nothing."""
    shown = installed.run("db", "show", HEAD, "--dialect", "postgresql", cwd=folder)
    assert (shown.returncode, shown.stdout[:7]) == (0, "BEGIN;\n"), shown.stderr
    unknown = installed.run("db", "show", "999", "--json", cwd=folder)
    assert json.loads(unknown.stdout)["error"]["code"] == "unknown-revision"

    linted = installed.run("db", "lint", "--strict", cwd=folder)
    assert (linted.returncode, linted.stdout[:7]) == (0, "clean: "), linted.stdout
    for option in ("--fix", "--release"):
        refused = installed.run("db", "lint", option, "--json", cwd=folder)
        assert json.loads(refused.stdout)["error"]["code"] == "not-a-checkout"


def test_every_command_is_tried_here(installed: Installed, folder: Path) -> None:
    """This file runs every ``db`` command that the installed program offers."""
    said = installed.run("db", "--help", cwd=folder).stdout
    offered = said.split("Commands:\n")[1].split("\n\n")[0]
    # A command stands two spaces in; what it does may go on further right.
    names = {line.split()[0] for line in offered.splitlines() if line[2:3].strip()}

    source = Path(__file__).read_text(encoding="utf-8")
    assert names
    assert {name for name in names if f'"{name}"' not in source} == set()
