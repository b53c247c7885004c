"""Alembic's commands run one at a time, on a given connection."""

from __future__ import annotations

import re
import resource
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, StaticPool, create_engine

from nextcloud_mcp_server.authoring.lint.version_files import read_script
from nextcloud_mcp_server.migrate import alembic_commands
from nextcloud_mcp_server.schema.history import load_history
from tests.support.errors import refused
from tests.support.facts import REVISIONS
from tests.support.scripts import SCRIPTS, add_revision, sql_revision


@contextmanager
def connection() -> Iterator[Connection]:
    """Yield a connection to an empty database, in a transaction."""
    with closing(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)) as raw:
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        with engine.connect() as made, made.begin():
            raw.execute("BEGIN")
            yield made


def recorded(made: Connection) -> list[str]:
    """Return the rows of the version table."""
    return [row[0] for row in made.exec_driver_sql("SELECT version_num FROM alembic_version")]


def test_every_revision_is_listed() -> None:
    """The list begins with the oldest; each has its parent, date, title and loss."""
    found = alembic_commands.listing(load_history())
    assert tuple(revision.id for revision in found) == load_history().revisions
    assert [revision.parent for revision in found] == [None, *load_history().revisions[:-1]]
    for revision in found:
        assert revision.title
        assert not revision.title.endswith(".")
        assert revision.loses
        assert revision.path.name.startswith(revision.date.replace("-", ""))
    assert found[1].title == "Add app passwords"
    assert found[1].loses == "the table app_passwords: every stored app password."


def test_a_stamp_is_the_only_row() -> None:
    """A stamp replaces all rows of the version table; base leaves none."""
    with connection() as made:
        alembic_commands.stamp(made, load_history(), "003")
        made.exec_driver_sql("INSERT INTO alembic_version VALUES ('zzz'), ('001')")
        alembic_commands.stamp(made, load_history(), "005")
        assert recorded(made) == ["005"]
        alembic_commands.stamp(made, load_history(), "base")
        assert recorded(made) == []


def test_alembic_commits_nothing() -> None:
    """After a stamp, an upgrade and a downgrade the caller can roll back."""
    with connection() as made:
        alembic_commands.stamp(made, load_history(), "base")
        alembic_commands.upgrade(made, load_history(), "005")
        alembic_commands.downgrade(made, load_history(), "002")
        assert made.in_transaction()
        made.exec_driver_sql("ROLLBACK")
        assert made.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0
        made.exec_driver_sql("BEGIN")


def test_an_unknown_revision_is_an_error_with_a_remedy() -> None:
    """An error of Alembic gets a code and a remedy."""
    with connection() as made:
        error = refused(lambda: alembic_commands.upgrade(made, load_history(), "999"))
    assert error.code == "migration-failed"
    assert "db history" in error.remedy


def test_commands_in_several_threads_run_one_by_one() -> None:
    """No two threads use Alembic's module globals at once."""

    def run(_: int) -> list[str]:
        with connection() as made:
            alembic_commands.upgrade(made, load_history(), "010")
            return recorded(made)

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(run, range(6))) == [["010"]] * 6


def test_a_percent_sign_in_the_folder_is_a_character(tmp_path: Path) -> None:
    """ConfigParser does not read it as an interpolation."""
    folder = tmp_path / "50%(here)s %20"
    folder.symlink_to(SCRIPTS)
    found = [revision.id for revision in alembic_commands.listing(load_history(folder))]
    assert found[: len(REVISIONS)] == list(REVISIONS)


def test_deleted_tables_are_read_from_the_revisions(own_scripts: Path) -> None:
    """Only the revisions that run count; the default is none."""
    body = sql_revision("DELETE FROM audit_logs")
    add_revision(own_scripts, f'DELETES_ROWS_FROM = ("audit_logs", "usage_events")\n\n\n{body}')
    history = load_history()
    assert alembic_commands.deleting(history, ("101",)) == {"audit_logs", "usage_events"}
    assert alembic_commands.deleting(history, history.revisions[:-1]) == frozenset()


def test_ids_of_this_project_begin_at_101(own_scripts: Path) -> None:
    """The id after 010 is 101; then each is one more."""
    assert alembic_commands.next_id(load_history()) == "101"
    add_revision(own_scripts, sql_revision())
    assert alembic_commands.next_id(load_history()) == "102"
    add_revision(own_scripts, sql_revision(), "999", "101")
    assert alembic_commands.next_id(load_history()) == "1000"


def test_a_new_migration_prints_nothing(
    own_scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """create() returns the path; the output of Alembic is not printed."""
    made = alembic_commands.create("add user preferences table", load_history())
    assert capsys.readouterr().out == ""
    assert made.parent == own_scripts / "versions"
    assert made.read_text("utf-8").startswith('"""add user preferences table')


@pytest.mark.parametrize("message", ["", " ", "!!", "\n"])
def test_a_migration_needs_a_name(message: str, own_scripts: Path) -> None:
    """A message without a letter or a digit is refused."""
    assert refused(lambda: alembic_commands.create(message)).code == "bad-input"
    assert own_scripts.is_dir()


@given(st.text(st.characters(exclude_categories=())))
def test_any_message_names_a_file_or_none(message: str) -> None:
    """The slug is at most 60 characters of ASCII words."""
    slug = alembic_commands.slug_of(message)
    assert len(slug) <= 60
    assert re.fullmatch("([a-z0-9]+(_[a-z0-9]+)*)?", slug)
    assert alembic_commands.slug_of(slug) == slug
    if re.search("[a-zA-Z0-9]", message):
        assert slug


@pytest.mark.parametrize(
    ("message", "slug"),
    [
        ("Add café column", "add_cafe_column"),
        ("Größe", "grosse"),
        ("a—b 日本 c", "a_b_c"),
        ("②", "2"),
        ("日本", ""),
        ("ab " * 30, "_".join(["ab"] * 20)),
        ("a" * 70, "a" * 60),
    ],
)
def test_letters_lose_their_accents(message: str, slug: str) -> None:
    """Other characters separate words, and a long slug ends with a complete word."""
    assert alembic_commands.slug_of(message) == slug


def test_a_migration_keeps_the_letters_of_its_title(own_scripts: Path) -> None:
    """Only the file name is ASCII; invisible characters are left out."""
    made = alembic_commands.create("Add café\0\udcff column")
    assert made.name.endswith("_101_add_cafe_column.py")
    assert made.read_text("utf-8").startswith('"""Add café column.\n')
    assert read_script(made).slug == "add_cafe_column"
    assert made.parent == own_scripts / "versions"


def test_an_incomplete_migration_is_deleted(own_scripts: Path) -> None:
    """If the file cannot be written completely, no revision is left."""
    before = sorted((own_scripts / "versions").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        error = refused(lambda: alembic_commands.create("add a table"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.code == "io-error"
    assert sorted((own_scripts / "versions").glob("*.py")) == [p for p in before if p.is_file()]
    assert load_history().head == "010"
