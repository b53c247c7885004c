"""The complete diagnosis: most severe first, without a change and without a secret."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.doctor import companions
from nextcloud_mcp_server.maintenance.doctor.context import Context
from nextcloud_mcp_server.maintenance.doctor.finding import WORST_FIRST, Finding, Level
from nextcloud_mcp_server.maintenance.doctor.run import CHECKS, diagnose
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import REFUSED, SERVED, Shelf, crash, fingerprint, listing
from tests.support import contents
from tests.support.contents import KEY
from tests.support.errors import refuses
from tests.support.files import flip
from tests.support.shapes import at


def test_a_healthy_database_is_all_ok(path: Path) -> None:
    """A healthy database has an ok finding of every check."""
    found = diagnose(Settings(path, (KEY,)), full=True)
    assert [f for f in found.findings if f.level is not Level.OK] == []
    assert {f.check for f in found.findings} == set(CHECKS)
    assert found.worst is Level.OK
    assert found.fixable == ()


def test_the_worst_comes_first(path: Path) -> None:
    """Findings are in the order of their levels, then in that of the checks."""
    path.chmod(0o644)
    found = diagnose(Settings(path)).findings
    levels = [WORST_FIRST.index(finding.level) for finding in found]
    assert levels == sorted(levels)
    assert found[0].check == "keys"
    assert found[0].level is Level.ERROR


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("s3cr3t"), "the check itself failed: RuntimeError"),
        (TokenStorageError("It is so.", code="io-error", remedy="Do that."), "It is so. Do that."),
    ],
)
def test_a_check_that_fails_is_a_line(path: Path, error: Exception, message: str) -> None:
    """A crash inside one check is an error of that check, after what it had found."""

    def broken(_: Context) -> Iterator[Finding]:
        yield Finding(Level.NOTE, "so far, so good")
        raise error

    checks = {"broken": broken, "file": CHECKS["file"]}
    found = diagnose(Settings(path), checks=checks).findings
    assert [(f.check, f.level, f.message) for f in found[:2]] == [
        ("broken", Level.ERROR, message),
        ("broken", Level.NOTE, "so far, so good"),
    ]
    assert found[2].check == "file"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("state", [*SERVED, *REFUSED])
def test_nothing_changes(state: str, full: bool, shelf: Shelf, tmp_path: Path) -> None:
    """Bytes, mode, time and neighbours of a database in any state stay as they are."""
    database = shelf.put(state, tmp_path / "tokens.db")
    before = (fingerprint(database), listing(tmp_path))
    found = diagnose(Settings(database), full=full)
    assert (fingerprint(database), listing(tmp_path)) == before
    assert not [f for f in found.findings if "check itself" in f.message]


@pytest.mark.parametrize("state", REFUSED)
def test_what_a_start_refuses_is_an_error(state: str, shelf: Shelf, tmp_path: Path) -> None:
    """The state that a start would refuse is named by its code."""
    found = diagnose(Settings(shelf.put(state, tmp_path / "tokens.db")))
    [finding] = [f for f in found.findings if f.check == "state"]
    assert finding.level is Level.ERROR
    assert finding.message.startswith(f"{REFUSED[state][0]}: ")


def test_a_crashed_database_is_examined_in_a_copy(tmp_path: Path) -> None:
    """A hot journal is found, stays, and hides no other finding."""
    live, database = tmp_path / "live.db", tmp_path / "tokens.db"
    at("006").write(live)
    crash(live, database)
    live.unlink()
    before = (fingerprint(database), listing(tmp_path))
    found = {f.check: f for f in diagnose(Settings(database, (KEY,))).findings}
    assert (fingerprint(database), listing(tmp_path)) == before
    assert found["journal"].fixable
    assert "crashed writer" in found["journal"].message
    assert found["state"].message.startswith("behind: it records 006")
    assert found["integrity"].level is Level.OK


@pytest.mark.parametrize("name", ["missing/far/away.db", "folder"])
def test_what_is_not_there_is_reported(name: str, tmp_path: Path) -> None:
    """A path without a file is a note, one that cannot be a file an error."""
    (tmp_path / "folder").mkdir()
    found = diagnose(Settings(tmp_path / name))
    [finding] = [f for f in found.findings if f.check == "file"]
    assert finding.level is (Level.ERROR if name == "folder" else Level.NOTE)
    assert not [f for f in found.findings if "check itself" in f.message]
    assert not (tmp_path / "missing").exists()


def test_no_secret_is_reported(path: Path) -> None:
    """No line has a key or a secret, encrypted or not."""
    found = diagnose(Settings(path, (contents.OTHER_KEY, KEY)), full=True)
    text = " ".join(f"{f.message} {f.command}" for f in found.findings)
    for secret in (KEY, contents.OTHER_KEY, "gAAAA", *contents.REFRESH_TOKENS.values()):
        assert secret not in text


def test_what_is_not_ours_gets_no_command(shelf: Shelf, tmp_path: Path) -> None:
    """No command is offered for another application's database."""
    database = shelf.put("foreign", tmp_path / "tokens.db")
    database.chmod(0o666)
    found = diagnose(Settings(database)).findings
    assert not [f for f in found if f.command or f.fixable]


@pytest.mark.parametrize("content", [b"", b"no database" * 99])
def test_of_what_is_not_ours_no_migration_is_announced(
    content: bytes, shelf: Shelf, tmp_path: Path
) -> None:
    """No line tells what a start, an upgrade or a migration would do to another's file."""
    database = shelf.put("foreign", tmp_path / "tokens.db")
    if content:
        database.write_bytes(content)
    told = [f.message for f in diagnose(Settings(database), full=True).findings]
    assert not [m for m in told if re.search("a start |an upgrade|a migration", m)]


@pytest.mark.parametrize("hurt", ["refresh_tokens", "idx_audit_user_timestamp"])
@pytest.mark.parametrize("days", [None, 99])
def test_of_what_is_damaged_no_backup_is_offered(path: Path, hurt: str, days: int | None) -> None:
    """A backup of a damaged database would be refused."""
    [saved] = companions.backups_of(path)
    if days is None:
        saved.unlink()
    else:
        os.utime(saved, (old := time.time() - days * 86400, old))
    assert offers(path) == [f"nextcloud-mcp-server db backup -d {path}"]
    flip(path, hurt)
    with refuses("corrupt"):
        back_up(path)
    assert offers(path) == []


def offers(path: Path) -> list[str]:
    """Return the commands that the doctor offers for the backups."""
    found = diagnose(Settings(path, (KEY,))).findings
    return [f.command for f in found if f.check == "backups" and f.command]


def test_the_reference_lists_every_check() -> None:
    """The reference lists every check."""
    page = Path(__file__).parents[3] / "docs" / "reference" / "doctor.md"
    told = page.read_text("utf-8").partition("\n## ")[0]
    assert [name for name in CHECKS if f"`{name}`" not in told] == []
