"""A table or view of somebody else may have the name of a table that a revision dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.rehearse import rehearse_downgrade
from nextcloud_mcp_server.maintenance.repair import Repaired, repair
from nextcloud_mcp_server.migrate.change import preview_downgrade, stamp
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.script import script_downgrade
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute, fingerprint, listing, rows
from tests.migrate.databases import versions
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.errors import refused
from tests.support.revisions import HEAD
from tests.support.shapes import at

REUSED = {
    "table": (
        "CREATE TABLE Registered_Webhooks (id INTEGER PRIMARY KEY, x TEXT)",
        "INSERT INTO Registered_Webhooks VALUES (1, 'mine')",
    ),
    "other key": (
        (
            "CREATE TABLE registered_webhooks "
            "(id, webhook_id, preset_id, created_at, x, PRIMARY KEY (id, x))"
        ),
        "INSERT INTO registered_webhooks VALUES (1, 2, 3, 4, 'mine')",
    ),
    "view": ("CREATE VIEW registered_webhooks AS SELECT 1 AS id, 'mine' AS x",),
}


@pytest.fixture(params=REUSED)
def reused(request: pytest.FixtureRequest, path: Path) -> Path:
    """A database at head with somebody's table or view of that name."""
    at("009").write(path)
    prepare(path)
    execute(path, *REUSED[request.param])
    return path


def mine(path: Path) -> list[tuple[str]]:
    """Return what somebody stored there."""
    return rows(path, "SELECT x FROM registered_webhooks")


def test_it_is_served_and_left_alone(reused: Path) -> None:
    """A start, a check and a repair accept it, and change nothing."""
    assert inspect(SqliteDatabase(reused)).ready
    before = fingerprint(reused)
    prepare(reused)
    assert repair(Settings(reused)) == Repaired(reused, ())
    assert (fingerprint(reused), mine(reused)) == (before, [("mine",)])


def test_an_upgrade_leaves_it_alone(reused: Path) -> None:
    """An upgrade of revisions that do not use the name runs and keeps every row."""
    downgrade(reused, "010")
    assert mine(reused) == [("mine",)]
    prepare(reused)
    assert (versions(reused), mine(reused)) == ([HEAD], [("mine",)])
    downgrade(reused, "101")
    stamp(SqliteDatabase(reused), "010")
    assert versions(reused) == ["010"]


def test_the_doctor_notes_it(reused: Path) -> None:
    """The doctor reports no problem, and names what needs the name."""
    findings = diagnose(Settings(reused)).findings
    [found] = [one for one in findings if one.check == "leftover tables"]
    assert (found.level, found.fixable) == (Level.NOTE, False)
    assert found.message == (
        "registered_webhooks is not of this program, although it has the name of a table that "
        "revision 010 drops: a downgrade below 010 needs that name"
    )
    assert next(one for one in findings if one.check == "state").level is Level.OK


@pytest.mark.parametrize("target", ["009", "001", "base"])
def test_a_downgrade_that_needs_the_name_is_refused(target: str, reused: Path) -> None:
    """Each way to go down, and a stamp, names it before anything is changed."""
    database, prepared = SqliteDatabase(reused), listing(reused.parent)
    tries = [
        lambda: downgrade(reused, target),
        lambda: preview_downgrade(database, target),
        lambda: rehearse_downgrade(reused, target),
        lambda: script_downgrade(connect(reused), target),
    ]
    if target != "base":
        tries.append(lambda: stamp(database, target))
    with invariants.unchanged(reused):
        errors: list[TokenStorageError] = [refused(one) for one in tries]
    text = "has registered_webhooks, which is not of this program, and revision 009 needs that name"
    for error in errors:
        assert (error.code, text in error.message) == ("bad-input", True)
    assert listing(reused.parent) == prepared


def test_a_revision_that_uses_the_name_refuses_it(path: Path) -> None:
    """At a revision that has the table, the name can only be of this program."""
    at("009").write(path)
    execute(path, "DROP TABLE registered_webhooks", *REUSED["view"])
    assert refused(lambda: prepare(path)).code == "inconsistent"


def test_a_trigger_on_it_is_of_no_concern(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A start warns of a trigger on a table of this program only."""
    at("009").write(path)
    prepare(path)
    execute(
        path,
        *REUSED["table"],
        "CREATE TRIGGER op AFTER INSERT ON registered_webhooks BEGIN SELECT 1; END",
    )
    prepare(path)
    assert "has triggers" not in caplog.text
