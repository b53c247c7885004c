"""An operator's rows that reference a table which a revision drops are named beforehand."""

from __future__ import annotations

import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.repair import preview_repair, repair
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute, rows
from tests.migrate.databases import versions
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.shapes import at

WEBHOOK = (
    "INSERT INTO registered_webhooks (id, webhook_id, preset_id, created_at) VALUES (1, 7, 'p', 1)"
)
WEBHOOKS = load_history().structure("009").tables["registered_webhooks"].sql
CHILD = (
    'CREATE TABLE "Op Notes" (hook INTEGER REFERENCES registered_webhooks (id), note TEXT)',
    "INSERT INTO \"Op Notes\" VALUES (1, 'kept'), (NULL, 'also kept')",
)


def put(path: Path, *statements: str) -> None:
    """Create a database at 009 with a webhook, then run ``statements``."""
    at("009").write(path)
    execute(path, WEBHOOK, *statements)
    path.chmod(0o600)


def test_a_start_names_the_rows_and_the_way_forward(path: Path) -> None:
    """No backup is made, nothing is changed, and the command in the remedy works as it is."""
    put(path, *CHILD)
    prepared = names(path.parent)
    with invariants.unchanged(path):
        error = refused(lambda: prepare(path))
    assert error.code == "migration-failed"
    assert (
        "revision 010 drops registered_webhooks, which 1 row of op notes still name in hook; "
        "nothing was changed."
    ) in str(error)
    assert not [name for name in names(path.parent) - prepared if "backup" in name]
    program, file, statements = shlex.split(error.remedy.partition("try again: ")[2])
    assert (program, file) == ("sqlite3", str(path))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
    prepare(path)
    assert versions(path) == [HEAD]
    assert rows(path, 'SELECT note FROM "op notes_kept" ORDER BY note') == [
        ("also kept",),
        ("kept",),
    ]


def test_a_downgrade_names_them_too(path: Path) -> None:
    """A table that goes with a downgrade can be referenced as well."""
    at("009").write(path)
    prepare(path)
    execute(
        path,
        "CREATE TABLE op_journal (entry INTEGER REFERENCES migration_journal (id))",
        "INSERT INTO op_journal SELECT id FROM migration_journal LIMIT 1",
    )
    error = refused(lambda: downgrade(path, "010"))
    assert "revision 101 drops migration_journal, which 1 row of op_journal" in str(error)
    assert versions(path) == [HEAD]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param("INSERT INTO \"Op Notes\" VALUES (NULL, 'no hook')", id="null"),
        pytest.param("INSERT INTO \"Op Notes\" VALUES (99, 'broken already')", id="broken"),
    ],
)
def test_rows_that_reference_no_row_stop_nothing(row: str, path: Path) -> None:
    """A NULL references nothing, and a reference that was broken before is no new problem."""
    put(path, CHILD[0], row)
    prepare(path)
    assert versions(path) == [HEAD]


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "repair"])
def test_a_repair_and_the_doctor_name_them_too(preview: bool, path: Path) -> None:
    """A leftover table that they reference is not fixable before the command was run."""
    at("009").write(path)
    prepare(path)
    execute(path, WEBHOOKS, WEBHOOK, *CHILD)
    settings = Settings(path)
    error = refused(lambda: preview_repair(settings) if preview else repair(settings))
    which = "which 1 row of op notes still name in hook"
    assert error.code == "migration-failed"
    assert (
        f"{path} cannot be repaired: revision 010 drops registered_webhooks, {which}; nothing was "
        "changed."
    ) in error.message
    assert versions(path) == [HEAD]
    [found] = [one for one in diagnose(settings).findings if one.check == "leftover tables"]
    assert (found.level, found.fixable) == (Level.WARNING, False)
    assert found.message == (
        "registered_webhooks is left over, although revision 010 drops it, "
        f"{which}: db repair cannot drop it before"
    )
    assert error.remedy.endswith(f"then try again: {found.command}")
    _, _, statements = shlex.split(str(found.command))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)
    done = repair(settings)
    assert "dropped registered_webhooks, as its revision does" in done.done
    assert rows(path, 'SELECT note FROM "op notes_kept" ORDER BY note') == [
        ("also kept",),
        ("kept",),
    ]
