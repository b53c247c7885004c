"""``from nextcloud_mcp_server.migrations import guards`` in a migration."""

from __future__ import annotations

import inspect
import runpy
import threading
from pathlib import Path

import pytest
from alembic import command

from nextcloud_mcp_server import migrations
from nextcloud_mcp_server.migrate.guards import Guards, using
from nextcloud_mcp_server.migrations import guards
from nextcloud_mcp_server.testing.templates import TokenDbAt
from tests.migrations.database import Database, configuration
from tests.support.errors import refuses
from tests.support.scripts import SCRIPTS, add_revision, used

BODY = '''
import sqlalchemy as sa
from nextcloud_mcp_server.migrations import guards

def upgrade() -> None:
    """Add notes."""
    guards.create_table("notes", sa.Column("id", sa.Text(), primary_key=True))

def downgrade() -> None:
    """Drop notes."""
    guards.drop_table("notes")
'''


def test_the_signatures_are_those_of_the_operations() -> None:
    """Each public operation has the same parameters where it is typed and where it is done."""
    done = runpy.run_path(str(SCRIPTS / "guards.py"))["Guards"]
    # No other revision has a reason to decrypt.
    names = {name for name in vars(done) if not name.startswith("_")} - {"close", "decrypt"}
    assert names == {name for name in vars(Guards) if not name.startswith("_")}
    for name in names:
        typed, real = (inspect.signature(getattr(kind, name)) for kind in (Guards, done))
        assert list(typed.parameters) == list(real.parameters), name
        for parameter in typed.parameters.values():
            twin = real.parameters[parameter.name]
            assert (parameter.kind, parameter.default) == (twin.kind, twin.default), name


async def test_a_migration_imports_them(database: Database, scripts: Path) -> None:
    """The revision runs up, up again and down with Alembic's own command, on both engines."""
    add_revision(scripts, BODY, "102", "101")
    database.scripts = scripts
    await database.upgrade()
    assert "notes" in await database.shape()
    await database.run(("stamp", "101"), ("upgrade", "102"))
    await database.downgrade("101")
    assert "notes" not in await database.shape()


def test_the_program_runs_such_a_migration(token_db_at: TokenDbAt, scripts: Path) -> None:
    """A start runs it too, and a downgrade undoes it."""
    database = token_db_at("101")
    add_revision(scripts, BODY, "102", "101")
    with used(scripts):
        assert migrations.upgrade_database(database).after == "102"
        migrations.downgrade_database(database, "101")
        assert migrations.get_current_revision(database) == "101"


def test_its_sql_can_be_printed(scripts: Path) -> None:
    """Offline the guards write plain statements."""
    add_revision(scripts, BODY, "102", "101")
    config = configuration(scripts)
    command.upgrade(config, "101:102", sql=True)
    assert "CREATE TABLE IF NOT EXISTS notes" in config.output_buffer.getvalue()  # type: ignore[union-attr]


def test_outside_of_a_migration_they_refuse() -> None:
    """Without a migration there is a named error, also in another thread than that of one."""
    with refuses("bad-input", "outside of a migration"):
        guards.drop_table("refresh_tokens")
    errors = []

    def elsewhere() -> None:
        with refuses("bad-input"):
            guards.drop_table("refresh_tokens")
        errors.append("refused")

    with using(object()):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with pytest.raises(AttributeError):
            guards.drop_table("refresh_tokens")
    assert errors == ["refused"]
