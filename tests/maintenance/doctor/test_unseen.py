"""A check that could not be made is unknown, and not ok."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.doctor import companions
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import CHECKS, diagnose
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.maintenance.doctor.conftest import Ask, healthy, worst
from tests.support.contents import KEY
from tests.support.files import root_page
from tests.support.unprivileged import as_nobody, open_folder

#: What a user who owns nothing is told of each database: each finding as JSON.
_TOLD = """
import json
from nextcloud_mcp_server.cli.db.doctor import finding_facts
for name in sys.argv[1:]:
    found = diagnose(settings.Settings(Path(name), (KEY,)))
    print(json.dumps([finding_facts(finding) for finding in found.findings]))
"""

#: What is said of the inside of a database, and so of none that nobody could open.
_INSIDE = {
    *("state", "version", "structure", "leftover tables", "triggers", "integrity"),
    *("foreign keys", "journal", "keys", "format", "audit", "clock"),
}


def _lock_the_server(database: Path) -> None:
    lock = database.with_name(f"{database.name}.inuse")
    lock.touch()
    lock.chmod(0o600)


def _close_the_backup(database: Path) -> None:
    [backup] = companions.backups_of(database)
    backup.chmod(0o600)
    execute(database, "DROP TABLE refresh_tokens")


def _put_at_rest(database: Path) -> None:
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    database.parent.chmod(0o755)


#: What is closed to the user who is told, by what happens to a database that is open to all.
_CLOSED: Mapping[str, Callable[[Path], None]] = {
    "server": _lock_the_server,
    "folder": lambda database: database.parent.chmod(0o700),
    "not read": lambda database: database.parent.chmod(0o711),
    "not entered": lambda database: database.parent.chmod(0o744),
    "backup": _close_the_backup,
    "at rest": _put_at_rest,
}

#: Of each check by its name, each finding.
Told = Mapping[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Told]]:
    """Return the findings of a user without access, for each database."""
    source = healthy(tmp_path_factory.mktemp("source") / "data" / "tokens.db").parent
    with open_folder() as folder:
        places = [folder / name / "tokens.db" for name in _CLOSED]
        for close, database in zip(_CLOSED.values(), places, strict=True):
            shutil.copytree(source, database.parent)
            database.parent.chmod(0o777)
            for file in database.parent.iterdir():
                file.chmod(0o666)
            close(database)
        said = as_nobody(_TOLD, *places).splitlines()
        yield {name: _by_check(line) for name, line in zip(_CLOSED, said, strict=True)}


def _by_check(line: str) -> Told:
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(line):
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_a_running_server_that_cannot_be_examined_is_unknown(told: Mapping[str, Told]) -> None:
    """The lock of running servers can belong to another user, who alone can read it."""
    [server] = told["server"]["server"]
    assert server["level"] == "unknown"
    assert server["message"] == (
        "whether one is running is unknown: tokens.db.inuse cannot be opened (Permission denied)"
    )
    assert server["mend"] is None


def test_a_folder_that_nobody_may_enter_is_unknown(told: Mapping[str, Told]) -> None:
    """No check is ok for another user's private folder."""
    found = told["folder"]
    assert found.keys() == set(CHECKS)
    assert [f["check"] for each in found.values() for f in each if f["level"] == "ok"] == [
        "configuration",
        "sqlite",
    ]
    outside = {"permissions", "file system", "space", "backups", "incomplete files", "server"}
    unknown = {name for name, each in found.items() if each[0]["level"] == "unknown"}
    assert unknown == _INSIDE | outside
    assert not [f for each in found.values() for f in each if "check itself" in f["message"]]
    [said] = found["backups"]
    assert "whether there are any is unknown: its folder" in said["message"]
    assert said["mend"] is None


@pytest.mark.parametrize("how", ["not read", "not entered"])
def test_a_folder_whose_files_cannot_be_examined(how: str, told: Mapping[str, Told]) -> None:
    """Who may enter it and not list it, or list it and not enter, sees no backup in it."""
    found = told[how]
    for check in ("backups", "incomplete files", "permissions"):
        assert [f for f in found[check] if f["level"] == "unknown"], found[check]
    assert not [f for f in found["permissions"] if f["level"] == "ok"]


def test_a_backup_that_cannot_be_read_is_unknown(told: Mapping[str, Told]) -> None:
    """One that is closed to this user is not called bad, nor named as the one to restore."""
    unknown, _ = told["backup"]["backups"]
    assert unknown["level"] == "unknown"
    assert unknown["message"].startswith("whether tokens.db.backup-")
    assert " is intact is unknown: " in unknown["message"]
    assert told["backup"]["state"][0]["mend"] is None


def test_a_mode_that_is_read_as_none_is_still_wal(told: Mapping[str, Told]) -> None:
    """A closed WAL database in a read-only folder is recognized as WAL."""
    [journal] = told["at rest"]["journal"]
    assert (journal["level"], journal["message"]) == ("ok", "its mode is wal")


def test_what_a_damaged_file_holds_is_unknown(path: Path, ask: Ask) -> None:
    """If no table can be read, no check of the content is ok."""
    raw = path.read_bytes()
    path.write_bytes(raw[:100] + b"\xff" * 8 + raw[108:])
    found = diagnose(Settings(path, (KEY,))).findings
    well = {f.check for f in found if f.level is Level.OK}
    assert well.isdisjoint(_INSIDE | {"writable"})
    [keys] = ask("keys")
    assert keys.level is Level.UNKNOWN
    assert keys.message.endswith(" is unknown: the database cannot be read (see state)")
    [keys] = ask("keys", keys=())
    assert (keys.level, keys.command) == (Level.UNKNOWN, None)
    assert "whether a key is missing is unknown" in keys.message


def test_rows_behind_a_damaged_page_are_unknown(path: Path, ask: Ask) -> None:
    """A check of the rows of a damaged table is unknown."""
    raw = bytearray(path.read_bytes())
    # The number of cells: the other rows are hidden.
    raw[root_page(path, "refresh_tokens") + 4] = 1
    path.write_bytes(raw)
    assert worst(ask("integrity")).level is Level.ERROR
    levels = {f.level for f in ask("keys")}
    assert Level.OK not in levels
    [keys] = [f for f in ask("keys") if f.level is Level.UNKNOWN]
    assert keys.message.endswith(" is unknown: damaged pages can hide rows (see integrity)")


def test_a_foreign_database_has_no_secrets_to_count(path: Path, ask: Ask) -> None:
    """The keys are not checked on another application's tables."""
    path.unlink()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    execute(path, "CREATE TABLE recipes (name)")
    assert ask("keys") == []
