"""A check that could not look says so: what nobody has seen is not well."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.doctor import around
from nextcloud_mcp_server.doctor.diagnosis import CHECKS, diagnose
from nextcloud_mcp_server.doctor.finding import Finding, Level
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.doctor.conftest import Ask, worst
from tests.support.contents import KEY
from tests.support.nobody import NOBODY, as_nobody, open_folder

#: What a user who owns nothing is told: each finding as JSON.
_TOLD = """
import json
from nextcloud_mcp_server.cli.doctor import finding_facts
found = diagnose(settings.Settings(Path(sys.argv[1]), (KEY,)))
print(json.dumps([finding_facts(finding) for finding in found.findings]))
"""

#: What is said of the inside of a database, and so of none that nobody could open.
_INSIDE = {
    "state",
    "version",
    "structure",
    "leftover tables",
    "integrity",
    "foreign keys",
    "journal",
    "keys",
    "format",
    "clock",
}


@pytest.fixture
def shared(path: Path) -> Iterator[Path]:
    """The healthy database with its backup, in a folder that everybody may enter and use."""
    with open_folder() as folder:
        place = folder / "data"
        shutil.copytree(path.parent, place)
        place.chmod(0o777)
        for file in place.iterdir():
            file.chmod(0o666)
        yield place / path.name


def told(database: Path) -> dict[str, list[dict[str, str]]]:
    """What each check says to a user who owns nothing."""
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(as_nobody(_TOLD, database)):
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_a_running_server_that_cannot_be_seen_is_unknown(shared: Path) -> None:
    """Another user's lock of running servers is closed to this one, who is told to look as it."""
    lock = shared.with_name(f"{shared.name}.inuse")
    lock.touch(mode=0o600)
    lock.chmod(0o600)
    [server] = told(shared)["server"]
    assert server["level"] == "unknown"
    assert server["message"] == (
        "whether one is running is unknown: tokens.db.inuse cannot be asked (Permission denied)"
    )
    assert server["mend"] == f"sudo -u root nextcloud-mcp-server db doctor -d {shared}"


def test_a_folder_that_nobody_may_enter_is_unknown(shared: Path) -> None:
    """Nothing in somebody else's private folder is called well, by any check."""
    shared.parent.chmod(0o700)
    found = told(shared)
    assert found.keys() == set(CHECKS)
    assert [f["check"] for each in found.values() for f in each if f["level"] == "ok"] == [
        "configuration"
    ]
    assert {name for name, each in found.items() if each[0]["level"] == "unknown"} == _INSIDE | {
        "permissions",
        "file system",
        "space",
        "backups",
        "half-made files",
        "server",
    }
    assert not [f for each in found.values() for f in each if "check itself" in f["message"]]
    [said] = found["backups"]
    assert "whether there are any is unknown: its folder" in said["message"]
    assert said["mend"] == f"sudo -u root nextcloud-mcp-server db doctor -d {shared}"


@pytest.mark.parametrize("mode", [0o711, 0o744], ids=["not-read", "not-entered"])
def test_a_folder_whose_files_cannot_be_seen(mode: int, shared: Path) -> None:
    """Who may enter it and not list it, or list it and not enter, sees no backup in it."""
    shared.parent.chmod(mode)
    found = told(shared)
    for check in ("backups", "half-made files", "permissions"):
        assert [f for f in found[check] if f["level"] == "unknown"], found[check]
    assert not [f for f in found["permissions"] if f["level"] == "ok"]


def test_a_backup_that_cannot_be_read_is_unknown(shared: Path) -> None:
    """One that is closed to this user is not called bad, nor named as the one to restore."""
    [backup] = around.backups_of(shared)
    backup.chmod(0o600)
    execute(shared, "DROP TABLE refresh_tokens")
    found = told(shared)
    unknown, _ = found["backups"]
    assert unknown["level"] == "unknown"
    assert unknown["message"].startswith(f"whether {backup.name} is good is unknown: ")
    assert found["state"][0]["mend"] is None


def _broken_header(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[100:108] = b"\xff" * 8
    path.write_bytes(raw)


def test_what_a_damaged_file_holds_is_unknown(path: Path, ask: Ask) -> None:
    """Where no table can be found, no key opens "0 of 0 secrets", and nothing inside is well."""
    _broken_header(path)
    found = diagnose(Settings(path, (KEY,))).findings
    well = {f.check for f in found if f.level is Level.OK}
    assert well.isdisjoint(_INSIDE | {"writable"})
    [keys] = ask("keys")
    assert keys.level is Level.UNKNOWN
    assert keys.message.endswith("opens is unknown: the database cannot be read (see state)")
    [keys] = ask("keys", keys=())
    assert (keys.level, keys.mend) == (Level.UNKNOWN, None)
    assert "whether there are secrets is unknown" in keys.message


def test_rows_behind_a_damaged_page_are_unknown(path: Path, ask: Ask) -> None:
    """What is counted in a table with a damaged page may be too little, and says so."""
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'refresh_tokens'"
        [(page,)] = connection.execute(query)
    raw = bytearray(path.read_bytes())
    # The number of cells: rows that are there are not seen any more.
    raw[(page - 1) * size + 4] = 1
    path.write_bytes(raw)
    assert worst(ask("integrity")).level is Level.ERROR
    levels = {f.level for f in ask("keys")}
    assert Level.OK not in levels
    [keys] = [f for f in ask("keys") if f.level is Level.UNKNOWN]
    assert keys.message.endswith(", as far as damaged pages can be read (see integrity)")


def test_a_mode_that_is_read_as_none_is_still_wal(shared: Path) -> None:
    """A WAL database at rest, in a folder that is read-only, is not said to have no WAL."""
    for suffix in ("-wal", "-shm"):
        shared.with_name(shared.name + suffix).unlink(missing_ok=True)
    shared.parent.chmod(0o755)
    [journal] = told(shared)["journal"]
    assert (journal["level"], journal["message"]) == ("ok", "its mode is wal")


def test_a_machine_that_names_no_file_system(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can tell a network file system from another, none is ruled out."""
    monkeypatch.setattr(files, "tells_network", lambda: False)
    finding = worst(ask("file system"))
    assert finding.level is Level.NOTE
    assert "nobody can tell" in finding.message


def test_a_foreign_database_has_no_secrets_to_count(path: Path, ask: Ask) -> None:
    """Another application's tables are not looked at for ours, so no key opens 0 of 0."""
    path.unlink()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    execute(path, "CREATE TABLE recipes (name)")
    assert ask("keys") == []


def test_the_command_to_look_again_is_for_another_user(path: Path) -> None:
    """Root, who sees what there is, is not sent to look as somebody else."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, NOBODY, NOBODY)
    found: tuple[Finding, ...] = diagnose(Settings(path, (KEY,))).findings
    assert not [f for f in found if f.looks]
