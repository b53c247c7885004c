"""Beside a host that uses Alembic for a database of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.alembic_commands import listing
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.migrations import downgrade_database
from nextcloud_mcp_server.schema.history import BASE, load_history
from tests.cli.places import rows
from tests.migrate.databases import versions
from tests.support.errors import refuses
from tests.support.scripts import add_revision, copied_scripts, used
from tests.support.shapes import at

ROUNDS = 12

HOST_ENV = """
import sqlalchemy as sa
from alembic import context

url = context.config.get_main_option("url")
with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
HOST_REVISION = """
import time
import sqlalchemy as sa
from alembic import op

revision, down_revision = "host", None

def upgrade():
    for number in range(20):
        op.create_table(f"host_{number}", sa.Column("id", sa.Integer(), primary_key=True))
        time.sleep(0.001)

def downgrade():
    for number in range(20):
        op.drop_table(f"host_{number}")
        time.sleep(0.001)
"""

#: Every way in which a revision can import what Alembic shares in the process.
IMPORTS = {
    "a module": ("from alembic import op", "op.execute"),
    "another name": ("from alembic import op as o", "o.execute"),
    "the package": ("import alembic", "alembic.op.execute"),
    "a dotted name": ("import alembic.op", "alembic.op.execute"),
    "a dotted name as another": ("import alembic.op as o", "o.execute"),
    "a function": ("from alembic.op import execute", "execute"),
    "the context": ("from alembic import context", "context.execute"),
}

#: A revision with the import at the top, or in the function.
REVISION = """
{top}

revision, down_revision = "101", "010"

def upgrade():
    {inside}
    {call}("CREATE TABLE notes (id INTEGER PRIMARY KEY)")

def downgrade():
    pass
"""


#: What a copy of a revision would do.
COPY = """
from alembic import op

revision, down_revision = "009", "008"

def upgrade():
    op.execute("CREATE TABLE evil (x)")

def downgrade():
    pass
"""


class Host:
    """A host's Alembic project, migrated up and down in a thread until it is stopped."""

    def __init__(self, folder: Path) -> None:
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text(HOST_ENV)
        (folder / "versions" / "host.py").write_text(HOST_REVISION)
        self.database = folder / "host.db"
        self.config = Config()
        self.config.set_main_option("script_location", str(folder))
        self.config.set_main_option("url", f"sqlite:///{self.database}")
        self.rounds = 0
        self.errors: list[BaseException] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        """Migrate up and down."""
        try:
            while not self.stopped.is_set():
                command.upgrade(self.config, "head")
                command.downgrade(self.config, "base")
                self.rounds += 1
            command.upgrade(self.config, "head")
        except BaseException as error:  # noqa: BLE001 - asserted by the test
            self.errors.append(error)


@contextmanager
def migrating(host: Host) -> Iterator[Host]:
    """Run the host's thread during the body."""
    thread = threading.Thread(target=host.run)
    thread.start()
    try:
        yield host
    finally:
        host.stopped.set()
        thread.join()


def tables(path: Path) -> set[str]:
    """Return the names of the tables."""
    return {name for (name,) in rows(path, "SELECT name FROM sqlite_master")}


@pytest.mark.filterwarnings("ignore:No path_separator")
def test_a_host_that_migrates_at_the_same_time_is_left_alone(tmp_path: Path) -> None:
    """Each database gets its own tables, whatever the other thread does in between."""
    head = load_history().head
    with migrating(Host(tmp_path / "host")) as host:
        for number in range(ROUNDS):
            path = tmp_path / f"{number}.db"
            assert prepare(connect(path)).after == head
            assert not [name for name in tables(path) if name.startswith("host_")]
            downgrade_database(path, BASE)
    assert host.errors == []
    assert host.rounds > 1
    assert tables(host.database) - {"alembic_version", "sqlite_autoindex_alembic_version_1"} == {
        f"host_{number}" for number in range(20)
    }


@pytest.mark.parametrize("place", ["top", "inside"])
@pytest.mark.parametrize("how", IMPORTS)
def test_a_revision_reaches_its_own_database_by_every_import(
    own_scripts: Path, path: Path, how: str, place: str
) -> None:
    """An import at the top of the file or in the function never finds the process's own proxy."""
    line, call = IMPORTS[how]
    lines = {"top": "", "inside": "", place: line}
    file = add_revision(own_scripts, "")
    file.write_text(REVISION.format(call=call, **lines))
    load_history.cache_clear()
    prepare(connect(path))
    assert "notes" in tables(path)


@pytest.mark.parametrize("name", ["20270101_0000_009b.py", "009 (copy).py", "zz copy.py"])
def test_a_copy_of_a_revision_never_runs(name: str, path: Path, tmp_path: Path) -> None:
    """Alembic would run the last file of an id; the error names it, and no table is changed."""
    at("008").write(path)
    message = "is not named as a migration is"
    with used(copied_scripts(tmp_path)) as scripts:
        (scripts / "versions" / name).write_text(COPY)
        load_history.cache_clear()
        before = tables(path)
        with refuses("bad-input", message) as caught:
            prepare(connect(path))
        assert (tables(path), versions(path)) == (before, ["008"])
        assert name in caught.value.message
        with refuses("bad-input", message):
            listing(load_history())


def test_a_revision_of_another_name_is_refused(path: Path, tmp_path: Path) -> None:
    """`db history` and a start say which file it is."""
    with used(copied_scripts(tmp_path)) as scripts:
        (scripts / "versions" / "zz copy.py").write_text(COPY.replace("009", "102"))
        load_history.cache_clear()
        with refuses("bad-input", "zz copy.py is not named as a migration is"):
            prepare(connect(path))


def test_a_wrong_id_in_a_file_is_refused(path: Path, tmp_path: Path) -> None:
    """Two files with one id are refused, also if their names differ."""
    with used(copied_scripts(tmp_path)) as scripts:
        add_revision(scripts, "").write_text(COPY)
        load_history.cache_clear()
        with pytest.raises(TokenStorageError, match="009 is also the id of"):
            prepare(connect(path))
