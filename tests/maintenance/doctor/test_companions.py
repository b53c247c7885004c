"""Each check of the files beside a database finds its problem and the command that fixes it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.backends.sqlite.in_use import hold
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.filesystem import mounts, permissions
from nextcloud_mcp_server.filesystem.files import ABANDONED_AFTER
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.doctor import companions
from nextcloud_mcp_server.maintenance.doctor import files as doctor_files
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute, replace_lock
from tests.maintenance.doctor.conftest import Ask, healthy, worst
from tests.support.by_path import prepare
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refused
from tests.support.unprivileged import as_nobody, open_folder


@pytest.mark.parametrize("name", ["tokens.db", "tokens.db.key", "backup"])
def test_what_others_may_read_is_reported(name: str, path: Path, ask: Ask) -> None:
    """No other user can read the database, the key and the backups."""
    file = companions.backups_of(path)[0] if name == "backup" else path.with_name(name)
    file.touch()
    file.chmod(0o604)
    finding = worst(ask("permissions"))
    # A start refuses such a key.
    level = Level.ERROR if name == "tokens.db.key" else Level.WARNING
    assert (finding.level, finding.fixable) == (level, True)
    assert finding.command == f"chmod 600 {file}"
    file.chmod(0o640)
    assert worst(ask("permissions")).level is Level.NOTE


def test_a_folder_where_anybody_may_write_is_reported(path: Path, ask: Ask) -> None:
    """Who may rename in the folder may replace the database; in a sticky one, add files only."""
    path.parent.chmod(0o777)
    assert "can replace" in worst(ask("permissions")).message
    path.parent.chmod(0o1777)
    assert [f.level for f in ask("permissions")] == [Level.NOTE, Level.OK]
    assert "can put files" in ask("permissions")[0].message


def test_a_second_name_is_reported(path: Path, ask: Ask) -> None:
    """A hard link has another journal, and so is another database to SQLite."""
    os.link(path, path.with_name("second.db"))
    assert "2 names" in ask("file")[0].message


def test_the_settings_that_are_not_used_are_reported(path: Path, ask: Ask) -> None:
    """A variable that another one overrules misleads its reader."""
    found = ask("configuration", overruled="/other.db", key_file=path, source="DATABASE_URL")
    assert [f.command for f in found] == [
        "unset TOKEN_STORAGE_DB",
        "unset TOKEN_ENCRYPTION_KEY_FILE",
    ]
    [fallback] = ask("configuration", fallback_from=Path("/app/data/tokens.db"))
    assert (fallback.level, fallback.command) == (Level.WARNING, f"export TOKEN_STORAGE_DB={path}")


def test_a_backup_of_a_database_that_is_gone_is_an_error(path: Path, ask: Ask) -> None:
    """Its database is missing, or was created again; a new backup says that this one is right."""
    path.unlink()
    finding = worst(ask("backups"))
    assert (finding.level, finding.command) == (
        Level.ERROR,
        f"nextcloud-mcp-server db restore --newest -d {path}",
    )
    assert not [
        found.command for check in ("file", "state") for found in ask(check) if found.command
    ]
    prepare(path)
    assert "was created after" in worst(ask("backups")).message
    back_up(path)
    assert [finding.level for finding in ask("backups")] == [Level.OK]


def test_a_table_of_secrets_that_is_empty_now_is_reported(path: Path, ask: Ask) -> None:
    """A table that was dropped and made again has no row, and the newest backup has some."""
    execute(path, "DELETE FROM app_passwords")
    worst(ask("backups"), Level.WARNING, "of app_passwords, and the database none")


def test_backups_of_another_key_are_reported(path: Path, ask: Ask) -> None:
    """After a rotation the older backups still need the old key."""
    back_up(path, keys=Keyring(KEY).fingerprints)
    assert [finding.level for finding in ask("backups")] == [Level.OK]
    worst(
        ask("backups", keys=(OTHER_KEY,)),
        Level.WARNING,
        "1 of 2 were made with a key that is not available",
    )
    assert [finding.level for finding in ask("backups", keys=(OTHER_KEY, KEY))] == [Level.OK]


def test_a_backup_without_secrets_needs_no_key(path: Path, ask: Ask) -> None:
    """Its key opens nothing, so nobody must keep it."""
    for table in sorted({table for table, _ in ENCRYPTED}):
        execute(path, f"DELETE FROM {table}")
    back_up(path, keys=Keyring(KEY).fingerprints)
    found = ask("backups", keys=(OTHER_KEY,))
    assert not [f for f in found if "key that is not available" in f.message]


def test_who_holds_the_lock_is_reported(path: Path, ask: Ask) -> None:
    """During a migration, the doctor names the process and does not wait."""
    with guard(path, 1) as held:
        held.announce("having a test")
        finding = worst(ask("lock"))
    assert finding.level is Level.NOTE
    assert f"process {os.getpid()}" in finding.message
    assert "having a test" in finding.message
    assert [f.level for f in ask("lock")] == [Level.OK]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "text"])
def test_what_lies_where_the_lock_should_is_reported(kind: str, path: Path, ask: Ask) -> None:
    """The start and the doctor both name the lock file and the command to move it."""
    lock, what = replace_lock(kind, path)
    error = refused(lambda: prepare(path))
    assert (error.code, error.message) == (
        "bad-path",
        f"{lock} should be the lock of {path}, and {what}.",
    )
    [finding] = ask("lock")
    assert finding.level is Level.ERROR
    assert finding.message.startswith(f"tokens.db.lock {what}, so nothing can be started")
    assert finding.command is not None
    assert error.remedy.endswith(f": {finding.command}")
    subprocess.run(finding.command, shell=True, check=True)  # noqa: S602 - as a person types it
    prepare(path)


def test_a_running_server_is_reported(path: Path, ask: Ask) -> None:
    """A running server is listed, and is not a problem."""
    open_store = hold(path)
    assert open_store is not None
    assert ask("server")[0].message == f"one is running on it (process {os.getpid()})"
    open_store.release()
    assert ask("server")[0].message == "none is running on it"


def test_backups_are_checked(path: Path, ask: Ask) -> None:
    """A missing, an old and a changed backup are found."""
    [backup] = companions.backups_of(path)
    month = time.time() - 40 * 86400
    os.utime(backup, (month, month))
    assert "40 days old" in worst(ask("backups")).message
    raw = bytearray(backup.read_bytes())
    raw[-1] ^= 0xFF
    backup.write_bytes(raw)
    worst(ask("backups"), Level.WARNING, "not the file that its manifest describes")
    backup.unlink()
    assert worst(ask("backups")).command == f"nextcloud-mcp-server db backup -d {path}"


def test_in_a_read_only_folder_a_backup_goes_into_another_one() -> None:
    """A backup beside the database would be refused, so the command has a target elsewhere."""
    code = """
path = Path(sys.argv[1])
[command] = [f.command for f in diagnose(settings.Settings(path)).findings if f.check == "backups"]
print(command)
with tempfile.TemporaryDirectory() as folder:
    print(back_up(path, Path(shlex.split(command)[3].replace("DIR", folder))).is_file())
"""
    with open_folder() as folder:
        path = healthy(folder / "data" / "tokens.db")
        for beside in path.parent.iterdir():
            if beside != path:
                beside.unlink()
        path.chmod(0o644)
        path.parent.chmod(0o755)
        command, made = as_nobody(code, path).splitlines()
    assert command == f"nextcloud-mcp-server db backup DIR/tokens.db -d {path}"
    assert made == "True"


def test_the_number_and_the_age_of_backups_are_a_sentence(path: Path, ask: Ask) -> None:
    """One backup of today, and several, are each told in words that fit the number."""
    [first] = companions.backups_of(path)
    assert ask("backups")[0].message == f"there is one, less than a day old: {first.name}"
    manifest_path(first).unlink()
    assert worst(ask("backups")).message.startswith("1 of 1 has no manifest, so only its pages")
    back_up(path)
    newest = companions.backups_of(path)[-1]
    old = time.time() - 86400 * 1.5
    os.utime(newest, (old, old))
    expected = f"there are 2, the newest 1 day old: {newest.name}"
    assert expected in [finding.message for finding in ask("backups")]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o644, "every user of this machine can read tokens.db"),
        (0o602, "every user of this machine can change tokens.db"),
        (0o666, "every user of this machine can read and change tokens.db"),
        (0o640, "a group can read tokens.db"),
        (0o660, "a group can read and change tokens.db"),
    ],
)
def test_a_mode_is_told_in_words(mode: int, said: str, path: Path, ask: Ask) -> None:
    """The line says what the mode allows, and no more."""
    path.chmod(mode)
    assert worst(ask("permissions")).message == said


def test_each_mode_has_its_own_line(path: Path, ask: Ask) -> None:
    """A file that can be read is not named with one that can be changed."""
    [backup] = companions.backups_of(path)
    path.chmod(0o666)
    backup.chmod(0o644)
    assert [(f.message, f.command) for f in ask("permissions")] == [
        ("every user of this machine can read and change tokens.db", f"chmod 600 {path}"),
        (f"every user of this machine can read {backup.name}", f"chmod 600 {backup}"),
    ]


def test_what_names_the_database_is_told(
    path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option, a variable and the default are told apart."""
    assert ask("configuration")[0].message == "the database is given with -d or -u"
    told = ask("configuration", source="DATABASE_URL")[0].message
    assert told == "the database is named by DATABASE_URL"
    monkeypatch.setattr(doctor_files, "DEFAULT_DATABASE", path)
    assert ask("configuration")[0].message == f"the database is the default, {path}"


def test_incomplete_files_are_found_when_they_are_old(path: Path, ask: Ask) -> None:
    """What is younger than an hour may be being made."""
    partial = path.with_name(f".{path.name}.backup-x.1234.partial")
    partial.touch()
    assert [f.level for f in ask("incomplete files")] == [Level.OK]
    hours = time.time() - 2 * ABANDONED_AFTER
    os.utime(partial, (hours, hours))
    assert worst(ask("incomplete files")).fixable


def test_too_little_space_is_found(path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a migration needs the space it is an error, otherwise a warning."""
    monkeypatch.setattr(doctor_files, "free_bytes", lambda _: 1000)
    assert worst(ask("space")).level is Level.WARNING
    execute(path, "UPDATE alembic_version SET version_num = '009'")
    assert worst(ask("space")).level is Level.ERROR
    monkeypatch.setattr(doctor_files, "free_bytes", lambda _: None)
    assert worst(ask("space")).level is Level.NOTE


def test_space_is_that_of_the_folder_that_will_hold_it(tmp_path: Path) -> None:
    """If the folder is missing, the space of its parent is checked, and nothing is created."""
    found = diagnose(Settings(tmp_path / "not" / "yet" / "tokens.db")).findings
    [finding] = [f for f in found if f.check == "space"]
    assert finding.level is Level.OK
    assert " are free; an upgrade takes " in finding.message
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_reported(
    path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a warning at head and an error if an upgrade is pending; a repair is not offered."""
    monkeypatch.setattr(permissions, "unwritable", lambda _: "the disk is a compact disc")
    assert worst(ask("writable")).level is Level.WARNING
    execute(path, "UPDATE alembic_version SET version_num = '009'", "DROP TABLE document_paths")
    assert worst(ask("writable")).level is Level.ERROR
    assert not worst(ask("structure")).fixable


def test_no_start_is_promised_that_cannot_write() -> None:
    """If a start cannot create the folder or the file, the reason is given, and no command."""
    code = """
for name in sys.argv[1:]:
    found = diagnose(settings.Settings(Path(name))).findings
    print(*[f.message for f in found if f.check in {"file", "writable"}], sep="; ")
    print(*[f.check for f in found if f.level == "error"])
    print(*[f.check for f in found if "a start makes" in f.message or f.command])
"""
    with open_folder() as folder:
        inside, far = folder / "x.db", folder / "nope" / "more" / "x.db"
        opened = folder / "open" / "nope" / "x.db"
        opened.parent.parent.mkdir()
        opened.parent.parent.chmod(0o777)
        lines = as_nobody(code, inside, far, opened).splitlines()
    cannot = "and a start cannot make it (see writable)"
    closed = f"its folder {folder} cannot be written by this user"
    missing = f"its folder {far.parent} is not there, and this user cannot make it in {folder}"
    assert lines == [
        f"{closed}, and it must be changed; there is no file {inside}, {cannot}",
        "writable",
        "",
        f"{missing}; there is no file {far}, {cannot}",
        "writable",
        "",
        f"there is no file {opened}; a start makes it; file and folder can be written",
        "",
        "file state keys",
    ]


def test_no_upgrade_is_offered_that_cannot_write(
    path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is behind and closed gets no command that its user cannot run."""
    execute(path, "UPDATE alembic_version SET version_num = '010'")
    assert worst(ask("state")).command == f"nextcloud-mcp-server db upgrade -d {path}"
    monkeypatch.setattr(permissions, "unwritable", lambda _: "the disk is a compact disc")
    finding = worst(ask("state"))
    assert finding.command is None
    assert finding.message.endswith(", if it can write (see writable)")


#: A function of the machine, its result, the check that reports it, and its level and message.
MACHINES: list[tuple[Any, str, object, str, Level, str]] = [
    (time, "time", 1000.0, "clock", Level.ERROR, "tokens do not expire"),
    (mounts, "is_not_local", True, "file system", Level.WARNING, "so WAL is not used"),
    (mounts, "lists_types", False, "file system", Level.NOTE, "cannot determine"),
]


@pytest.mark.parametrize("case", MACHINES, ids=lambda case: case[1])
def test_a_problem_of_the_machine_is_found(
    case: tuple[Any, str, object, str, Level, str], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong clock, and a file system that is not local or not known, are reported."""
    module, name, result, check, level, message = case
    monkeypatch.setattr(module, name, lambda *_: result)
    worst(ask(check), level, message)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("", "is not known to be local (its type is virtiofs), so WAL is not used"),
        ("local", "so WAL is used (its type is virtiofs)"),
        ("remote", "so WAL is not used (its type is virtiofs)"),
    ],
)
def test_the_type_of_the_file_system_is_named(
    declared: str, message: str, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor names the type that it saw, what follows, and the setting."""
    told = tmp_path / "mountinfo"
    told.write_text("36 35 0:9 / / rw - virtiofs share rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", told)
    monkeypatch.setattr(mounts, "on_own_device", lambda _: False)
    monkeypatch.setenv("TOKEN_STORAGE_FILESYSTEM", declared)
    finding = worst(ask("file system"))
    assert finding.level is (Level.NOTE if declared else Level.WARNING)
    assert message in finding.message
    assert "TOKEN_STORAGE_FILESYSTEM" in (finding.command or finding.message)
    left = [found.message for found in ask("journal") if found.level is not Level.OK]
    assert left == ([] if declared == "local" else ["its mode is wal; a start makes it delete"])


@pytest.mark.parametrize("kind", ["text", "pipe", "folder", "link"])
def test_another_programs_file_under_the_name_of_the_mark_is_named(
    kind: str, path: Path, ask: Ask
) -> None:
    """A server cannot leave its name there; after the command it can."""
    mark = path.with_name(f"{path.name}.inuse")
    mark.unlink(missing_ok=True)
    if kind == "text":
        mark.write_text("somebody's text")
    elif kind == "pipe":
        os.mkfifo(mark)
    elif kind == "folder":
        mark.mkdir()
    else:
        mark.symlink_to(path)
    finding = next(f for f in ask("server") if f.level is Level.WARNING)
    what = "is the file of another program" if kind == "text" else "is no regular file"
    assert f"tokens.db.inuse {what}" in finding.message
    assert finding.command == f"mv {mark} {mark}.moved"
    mark.rename(f"{mark}.moved")
    assert [f.level for f in ask("server")] == [Level.OK]
